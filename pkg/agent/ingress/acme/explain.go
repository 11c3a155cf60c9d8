package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// explain puts an authority's refusal into words that say what to do.
func explain(err error) error {
	if refused, ok := errors.AsType[*acme.AuthorizationError](err); ok {
		reasons := make([]string, 0, len(refused.Errors))
		for _, e := range refused.Errors {
			reasons = append(reasons, detail(e))
		}
		return fmt.Errorf("the authority could not check %s: %s; the name must lead to this node in the public DNS, and port 80 must be reachable from the internet",
			refused.Identifier, strings.Join(reasons, "; "))
	}
	if _, limited := acme.RateLimit(err); limited {
		return fmt.Errorf("the authority takes no more requests for now: %s", detail(err))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s: %w", patience, err)
	}
	return errors.New(detail(err))
}

// detail is what the authority says, without the protocol around it.
func detail(err error) string {
	if problem, ok := errors.AsType[*acme.Error](err); ok && problem.Detail != "" {
		return problem.Detail
	}
	return err.Error()
}

// RetryAfter is how long the authority asks to be left alone after this error;
// 0 if it does not.
func RetryAfter(err error) time.Duration {
	after, _ := acme.RateLimit(err)
	return after
}

// RenewAt is when a certificate should be replaced: after two thirds of its
// life.
func RenewAt(leaf *x509.Certificate) time.Time {
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
}
