package clock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// machine is the real clock.
type machine struct{}

var _ Source = machine{}

// Now implements Source.
func (machine) Now() time.Time { return time.Now() }

// Elapsed implements Source.
func (machine) Elapsed() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // Every kernel that skiff runs on has it.
	}
	return time.Duration(t.Nano())
}

// Synchronized implements Source: the kernel is told by whatever keeps its
// clock right.
func (machine) Synchronized() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
}

// Set implements Source.
func (machine) Set(t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// never is a time that timers accept and that does not come.
const never = 9_000_000_000

// Watch implements Source. A timer that never fires fails when the clock is
// set, if it has been asked to.
//
// Source: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET.
func (machine) Watch(ctx context.Context, set func()) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("make a timer: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "clock")
	defer timer.Close()
	defer context.AfterFunc(ctx, func() { _ = timer.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 8)
	for {
		at := unix.ItimerSpec{Value: unix.Timespec{Sec: never}}
		if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &at, nil); err != nil && !errors.Is(err, unix.ECANCELED) {
			return fmt.Errorf("set a timer: %w", err)
		}
		_, err := timer.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ECANCELED) {
			return fmt.Errorf("wait for the clock to be set: %w", err)
		}
		set()
	}
}

// Machine is the real clock.
func Machine() Source { return machine{} }
