package hosts

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
)

// Program is a T for programs that are not tests. Its methods may be called
// from the goroutine of RunProgram only, except Errorf and Logf.
type Program struct {
	name string
	log  io.Writer

	mu       sync.Mutex
	failed   bool
	cleanups []func()
	// All below mu are guarded by it.
}

var _ T = (*Program)(nil)

// fatal unwinds the stack to RunProgram.
type fatal struct{}

// RunProgram runs main with a Program that logs to log, cleans up in any case,
// also when it is interrupted, and returns the exit code.
func RunProgram(name string, log io.Writer, main func(*Program)) (code int) {
	p := &Program{name: name, log: log}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		// Running processes die with this one; their directories and cgroups
		// are removed by the next run's Reap.
		fmt.Fprintln(log, name+": interrupted")
		os.Exit(130)
	}()
	defer func() {
		if p.Failed() {
			code = 1
		}
	}()
	defer p.cleanUp()
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(fatal); !ok {
				p.Errorf("panic: %v", r)
				panic(r)
			}
		}
	}()
	main(p)
	return 0
}

func (p *Program) cleanUp() {
	p.mu.Lock()
	all := p.cleanups
	p.cleanups = nil
	p.mu.Unlock()
	for _, fn := range slices.Backward(all) {
		fn()
	}
}

// Helper implements T.
func (p *Program) Helper() {}

// Name implements T.
func (p *Program) Name() string { return p.name }

// Logf implements T.
func (p *Program) Logf(format string, args ...any) {
	fmt.Fprintf(p.log, p.name+": "+format+"\n", args...)
}

// Errorf implements T: the program goes on and will end with exit code 1.
func (p *Program) Errorf(format string, args ...any) {
	p.Logf(format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = true
}

// Fatalf implements T: the program cleans up and ends.
func (p *Program) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	panic(fatal{})
}

// Failed implements T.
func (p *Program) Failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// Cleanup implements T.
func (p *Program) Cleanup(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups = append(p.cleanups, fn)
}
