package edge

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

// maxMirrored is the largest body that is sent to two backends.
const maxMirrored = 1 << 20

// keep reads a small body whole, where it may be needed again.
func (x *exchange) keep(r *http.Request, retry, mirror bool) error {
	limit := int64(maxKept)
	if mirror {
		limit = maxMirrored
	}
	if x.kept != nil {
		return nil
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	if r.Body == http.NoBody || !retry && !mirror || r.ContentLength > limit || r.ContentLength < 0 {
		return nil
	}
	kept, err := io.ReadAll(io.LimitReader(r.Body, limit))
	if err != nil {
		return err
	}
	x.kept = kept
	return nil
}

// mirror sends copies whose answers nobody waits for.
func (x *exchange) mirror(r *http.Request, mirrors []*Mirror) {
	if r.Body != http.NoBody && x.kept == nil {
		return
	}
	for _, m := range mirrors {
		b := x.t.backends[m.Backend]
		if b == nil || m.Denominator > 0 && rand.IntN(m.Denominator) >= m.Numerator {
			continue
		}
		kept := x.kept
		// What is cloned may be used for the next request when this one is over.
		copied := r.Clone(context.Background())
		x.s.wg.Go(func() {
			y := &exchange{s: x.s, t: x.t, route: x.route, client: x.client, kept: kept, unblock: func() {}}
			defer y.after(10*time.Second, errTimeout)()
			e := b.choose("", x.client, 0)
			if e == nil {
				return
			}
			resp, err := y.try(b, e, copied, true)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxMirrored))
			_ = resp.Body.Close()
		})
	}
}
