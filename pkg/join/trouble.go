package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// RefusedError says that the server answered and did not want this node.
type RefusedError struct {
	Status  int
	Code    Code
	Message string
}

func (e *RefusedError) Error() string {
	if e.Code == CodeStarting || e.Code == CodeBusy {
		return "the server asks this node to wait: " + e.Message
	}
	return fmt.Sprintf("the server refused this node (%d): %s", e.Status, e.Message)
}

// Obstacle is what keeps a node from reaching a server.
type Obstacle string

// The obstacles.
const (
	NoSuchName  Obstacle = "name"
	NobodyThere Obstacle = "refused"
	NoRoute     Obstacle = "route"
	NoAnswer    Obstacle = "timeout"
	InBetween   Obstacle = "proxy"
	NotSkiff    Obstacle = "not-skiff"
	Impostor    Obstacle = "impostor"
	OtherReason Obstacle = "other"
)

// UnreachableError says that no skiff server answered at an address.
type UnreachableError struct {
	URL      string
	Obstacle Obstacle
	Err      error
}

func (e *UnreachableError) Error() string {
	advice := map[Obstacle]string{
		NoSuchName:  "the host name cannot be resolved; correct --server, or the name servers of this machine",
		NobodyThere: "nothing listens there; is skiff server running, and is it this port?",
		NoRoute:     "there is no way to that address from here; look at this machine's network and its routes",
		NoAnswer:    "no answer; is the machine on, and does a firewall let TCP to this port through?",
		InBetween:   "a proxy or a gateway answered instead of the server; let this machine reach the server directly",
		NotSkiff:    "what answers there is no skiff server; correct --server",
		Impostor:    "what answers there has a certificate of this cluster, but not that of a server; correct --server",
		OtherReason: "no skiff server could be reached",
	}[e.Obstacle]
	return fmt.Sprintf("%s: %s: %v", e.URL, advice, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// ClockError says that node and server do not agree what time it is.
type ClockError struct {
	Node, Server time.Time
	Err          error
}

func (e *ClockError) Error() string {
	return fmt.Sprintf("this node's clock says %s and the server's %s, they are %s apart; set the one that is wrong: %v",
		e.Node.UTC().Format(time.DateTime), e.Server.UTC().Format(time.DateTime), apart(e.Server.Sub(e.Node)), e.Err)
}

func (e *ClockError) Unwrap() error { return e.Err }

func apart(d time.Duration) string {
	d = d.Abs().Round(time.Second)
	if days := int(d / (24 * time.Hour)); days > 1 {
		return fmt.Sprintf("%d days", days)
	}
	return d.String()
}

// maxApart is what clocks may differ by without being to blame for anything:
// certificates are valid a little before their issue.
const maxApart = 2 * time.Minute

// explain puts the blame for an error on the clocks if they differ.
func (c *call) explain(err error) error {
	invalid, dated := errors.AsType[x509.CertificateInvalidError](err)
	if issued := !isURLError(err); (issued || dated && invalid.Reason == x509.Expired) && c.ahead.Abs() > maxApart {
		now := c.now()
		return &ClockError{Node: now, Server: now.Add(c.ahead), Err: err}
	}
	return unreachable(c.base(), err)
}

func isURLError(err error) bool {
	_, ok := errors.AsType[*url.Error](err)
	return ok
}

// unreachable finds the obstacle in an error of net/http. What is no such
// error is returned as it is.
func unreachable(address string, err error) error {
	wrapped, ok := errors.AsType[*url.Error](err)
	if !ok {
		return err
	}
	o, inner := OtherReason, wrapped.Err
	_, dns := errors.AsType[*net.DNSError](err)
	_, name := errors.AsType[x509.HostnameError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	var timeout interface{ Timeout() bool }
	switch {
	case dns:
		o = NoSuchName
	case errors.Is(err, syscall.ECONNREFUSED):
		o = NobodyThere
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		o = NoRoute
	case name:
		o = Impostor
	case record, strings.Contains(inner.Error(), "server gave HTTP response"):
		// Of the second net/http has no type.
		o = NotSkiff
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		o = NoAnswer
	}
	return &UnreachableError{URL: address, Obstacle: o, Err: inner}
}

// unlikely looks whether an answer to a request for CACertsPath is one that a
// skiff server gives.
func unlikely(address string, resp *http.Response, body []byte) error {
	answered := fmt.Errorf("%s answered %s", CACertsPath, resp.Status)
	switch {
	case resp.StatusCode == http.StatusOK && bytes.Contains(body, []byte("-----BEGIN CERTIFICATE-----")):
		return nil
	case resp.StatusCode == http.StatusServiceUnavailable && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain"):
		return &RefusedError{Status: resp.StatusCode, Code: CodeStarting, Message: strings.TrimSpace(string(body[:min(len(body), maxText)]))}
	case resp.StatusCode == http.StatusTooManyRequests:
		return &RefusedError{Status: resp.StatusCode, Code: CodeBusy, Message: strings.TrimSpace(string(body[:min(len(body), maxText)]))}
	case resp.StatusCode == http.StatusProxyAuthRequired, resp.StatusCode == http.StatusBadGateway, resp.StatusCode == http.StatusGatewayTimeout,
		resp.Header.Get("Via") != "", resp.StatusCode/100 == 3:
		return &UnreachableError{URL: address, Obstacle: InBetween, Err: answered}
	default:
		return &UnreachableError{URL: address, Obstacle: NotSkiff, Err: answered}
	}
}
