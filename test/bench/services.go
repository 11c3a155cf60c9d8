package main

import (
	"time"

	"skiff/test/shop"
)

// services opens a shop that uses all that is packaged with skiff, and adds
// what the processes of the platform hold then, and after it has closed. Shims
// are not counted: they are the shop's pods.
func (n *node) services(settle time.Duration) {
	before := n.platform()
	begin := time.Now()
	s := shop.Open(n.p, n.Host)
	s.Use()
	n.f.add("services: applied → all in use", "s", time.Since(begin).Seconds())
	time.Sleep(settle)
	s.Use()
	used := n.platform()
	n.f.add("memory with every service in use, anonymous", "MiB", used)
	n.f.add("memory that services take when used, anonymous", "MiB", used-before)
	s.Close()
	time.Sleep(settle)
	n.f.add("memory after the last use of services, anonymous", "MiB", n.platform())
}

// platform is the anonymous memory of skiff and containerd, in MiB.
func (n *node) platform() float64 {
	sum := 0.0
	for _, u := range n.usages() {
		if u.kind == "skiff" || u.kind == "containerd" {
			sum += u.anon / 1024
		}
	}
	return sum
}
