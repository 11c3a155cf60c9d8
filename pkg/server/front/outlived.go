package front

import (
	"net/http"
	"time"
)

// lastMoments of a client certificate are when its connection is given up.
const lastMoments = 10 * time.Second

// outlived reports whether a connection has lasted longer than the certificate
// that the client showed at its beginning. The client may have a new one for
// long, and shows it on its next connection; on this one it would be refused
// for as long as it does not look at its files, which are five minutes in
// client-go.
func outlived(r *http.Request, now time.Time) bool {
	return r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && r.TLS.PeerCertificates[0].NotAfter.Sub(now) < lastMoments
}
