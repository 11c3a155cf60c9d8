package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// ForeignError says that who answers as a server belongs to another cluster.
type ForeignError struct {
	Issuer string // by its certificate, with the beginning of its key's identifier
	Err    error
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("what answers there has a certificate of another authority (%.120s) than this node's cluster: it is another cluster, was installed anew, or something in between speaks for it; "+
		"if this node is to join it, start it once with its full token (K10…)", e.Issuer)
}

func (e *ForeignError) Unwrap() error { return e.Err }

// Foreign makes an error of TLS a ForeignError if it says so, and returns any
// other as it is.
func Foreign(err error) error {
	unknown, ok := errors.AsType[x509.UnknownAuthorityError](err)
	if !ok {
		return err
	}
	issuer := "unnamed"
	if unknown.Cert != nil {
		// All clusters' authorities have the same name.
		id := unknown.Cert.AuthorityKeyId
		issuer = fmt.Sprintf("%s, key %x", unknown.Cert.Issuer, id[:min(len(id), 8)])
	}
	return &ForeignError{Issuer: issuer, Err: err}
}
