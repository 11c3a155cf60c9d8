package main

import (
	"context"
	"fmt"
	"net"

	"github.com/miekg/dns"
)

// serveDNS is a name server that knows one answer.
func serveDNS(ctx context.Context, addr string) error {
	ip := net.ParseIP(addr)
	if ip == nil {
		return fmt.Errorf("%q is not an address", addr)
	}
	server := &dns.Server{Addr: ":53", Net: "udp", Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: ip}}
		}
		_ = w.WriteMsg(m)
	})}
	go func() {
		<-ctx.Done()
		_ = server.Shutdown()
	}()
	return server.ListenAndServe()
}
