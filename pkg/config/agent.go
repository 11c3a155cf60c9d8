package config

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// defaultPort is where a server answers unless it is told otherwise.
const defaultPort = 6443

func (d *completed) validateAgent(p *problems) {
	a := &d.Agent
	if a.Server != "" {
		if _, err := serverURL(a.Server); err != nil {
			p.add("server", a.Server, "%w", err)
		}
	}
	if a.LBPort < 1 || a.LBPort > 65535 {
		p.add("lb-server-port", a.LBPort, "want a port between 1 and 65535")
	}
}

// serverURL completes what a person writes for --server: "10.0.0.1" means https
// and the default port.
func serverURL(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Is6() {
		text = "[" + text + "]"
	}
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", errors.New("want the address of a server, like https://192.168.1.10:6443")
	}
	host, port := u.Hostname(), u.Port()
	switch {
	case u.Scheme != "https":
		return "", errors.New("want https://, nothing else is spoken there")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return "", errors.New("want host and port alone, like https://192.168.1.10:6443")
	}
	if _, err := netip.ParseAddr(host); err != nil && !isDomain(strings.ToLower(host)) {
		return "", errors.New("want a host name or an address behind https://")
	}
	n := defaultPort
	if port != "" {
		if n, err = strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return "", errors.New("want a port between 1 and 65535 behind the host")
		}
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(n)), nil
}

// ServerHostPort is --server as an address to dial, "" if it was not given.
func (c Completed) ServerHostPort() string { return strings.TrimPrefix(c.Agent.Server, "https://") }
