package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// reach prints "yes ADDR" or "no ADDR" for each of a list of addresses.
func reach(ctx context.Context, list string) error {
	addrs := strings.Split(list, ",")
	answers := make([]string, len(addrs))
	dialer := net.Dialer{Timeout: 600 * time.Millisecond}
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() {
			answers[i] = "no " + addr
			if conn, err := dialer.DialContext(ctx, "tcp", addr); err == nil {
				_ = conn.Close()
				answers[i] = "yes " + addr
			}
		})
	}
	wg.Wait()
	fmt.Println(strings.Join(answers, "\n"))
	return nil
}

// probe tries all addresses of a network again and again, several at a time
// each, until it is stopped. A refusal is an answer too.
func probe(ctx context.Context, target string) error {
	network, port, ok := strings.Cut(target, ":")
	prefix, err := netip.ParsePrefix(network)
	if _, perr := strconv.Atoi(port); err != nil || !ok || perr != nil {
		return fmt.Errorf("%q is not a network and a port: %w", target, errors.Join(err, perr))
	}
	const parallel = 3
	const timeout = 90 * time.Millisecond
	var wg sync.WaitGroup
	for ip := prefix.Masked().Addr(); prefix.Contains(ip); ip = ip.Next() {
		var once sync.Once
		for i := range parallel {
			wg.Go(func() {
				dialer := net.Dialer{Timeout: timeout}
				wait(ctx, time.Duration(i)*timeout/parallel)
				for ctx.Err() == nil {
					begin := time.Now()
					conn, err := dialer.DialContext(ctx, "tcp", ip.String()+":"+port)
					if err == nil {
						_ = conn.Close()
					}
					if err == nil || errors.Is(err, syscall.ECONNREFUSED) {
						once.Do(func() { fmt.Println("answer from", ip, time.Now().Format(time.RFC3339Nano)) })
						return
					}
					wait(ctx, timeout-time.Since(begin))
				}
			})
		}
	}
	fmt.Println("probing", prefix)
	wg.Wait()
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
