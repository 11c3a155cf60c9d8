package apiserver

import (
	"context"
	"io"
	"time"

	"gopkg.in/go-jose/go-jose.v2/jwt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/pkg/apis/coordination"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// backdate is how long before its issue a token is valid. A clock that is set
// back by less makes no token invalid. Those who check them elsewhere, and ask
// for their age, allow for more.
const backdate = time.Hour

// backdated issues tokens that are valid already before they are issued.
// Upstream's begin at once, and the kubelet asks for others only towards their
// end: after the clock has been set back, pods would be refused until it shows
// the time of the issue again.
type backdated struct {
	serviceaccount.TokenGenerator

	earlier func() time.Time
}

// GenerateToken implements serviceaccount.TokenGenerator.
func (b backdated) GenerateToken(ctx context.Context, claims *jwt.Claims, private any) (string, error) {
	begin := jwt.NewNumericDate(b.earlier().Add(-backdate))
	for _, at := range []**jwt.NumericDate{&claims.IssuedAt, &claims.NotBefore} {
		if *at != nil && (*at).Time().After(begin.Time()) {
			*at = begin
		}
	}
	return b.TokenGenerator.GenerateToken(ctx, claims, private)
}

func (a *APIServer) backdateTokens(cfg *app.Config) {
	issuer := &cfg.KubeAPIs.ControlPlane.Extra.ServiceAccountIssuer
	if *issuer == nil {
		return
	}
	earlier := a.Earlier
	if earlier == nil {
		earlier = time.Now
	}
	*issuer = backdated{*issuer, earlier}
}

// heartbeats is an admission plug-in that keeps the times in nodes' leases
// growing. The controller that calls nodes lost takes a lease for renewed only
// if its time is later than that of the last one: a node whose clock has been
// set back would be lost, and its pods evicted, until the clock has caught up.
// Nobody compares these times with a clock.
//
// Source: k8s.io/kubernetes, pkg/controller/nodelifecycle.
type heartbeats struct{}

const heartbeatsPlugin = "SkiffHeartbeats"

var _ admission.MutationInterface = heartbeats{}

func newHeartbeats(io.Reader) (admission.Interface, error) { return heartbeats{}, nil }

// Handles implements admission.Interface.
func (heartbeats) Handles(op admission.Operation) bool { return op == admission.Update }

// Admit implements admission.MutationInterface.
func (heartbeats) Admit(_ context.Context, attrs admission.Attributes, _ admission.ObjectInterfaces) error {
	if attrs.GetResource().GroupResource() != (schema.GroupResource{Group: coordination.GroupName, Resource: "leases"}) || attrs.GetNamespace() != "kube-node-lease" {
		return nil
	}
	now, ok := attrs.GetObject().(*coordination.Lease)
	before, ok2 := attrs.GetOldObject().(*coordination.Lease)
	if !ok || !ok2 || now.Spec.RenewTime == nil || before.Spec.RenewTime == nil || now.Spec.RenewTime.After(before.Spec.RenewTime.Time) {
		return nil
	}
	next := metav1.NewMicroTime(before.Spec.RenewTime.Add(time.Millisecond))
	now.Spec.RenewTime = &next
	return nil
}
