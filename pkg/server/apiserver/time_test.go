package apiserver

import (
	"context"
	"testing"
	"time"

	"gopkg.in/go-jose/go-jose.v2/jwt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/coordination"
)

var (
	noon   = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	leases = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}
)

func lease(at time.Time) *coordination.Lease {
	t := metav1.NewMicroTime(at)
	return &coordination.Lease{Spec: coordination.LeaseSpec{RenewTime: &t}}
}

// TestHeartbeatsGrow: what the controller that looks for lost nodes sees of a
// clock that is set back.
func TestHeartbeatsGrow(t *testing.T) {
	for _, tt := range []struct {
		name, namespace string
		before, now     time.Time
		want            time.Time
	}{
		{"as ever", "kube-node-lease", noon, noon.Add(25 * time.Second), noon.Add(25 * time.Second)},
		{"set back", "kube-node-lease", noon, noon.Add(-time.Hour), noon.Add(time.Millisecond)},
		{"the same", "kube-node-lease", noon, noon, noon.Add(time.Millisecond)},
		{"another lease", "kube-system", noon, noon.Add(-time.Hour), noon.Add(-time.Hour)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := lease(tt.now)
			a := admission.NewAttributesRecord(now, lease(tt.before), schema.GroupVersionKind{}, tt.namespace, "n1", leases, "", admission.Update, nil, false, nil)
			if err := (heartbeats{}).Admit(t.Context(), a, nil); err != nil {
				t.Fatal(err)
			}
			if got := now.Spec.RenewTime.Time; !got.Equal(tt.want) {
				t.Errorf("renewed at %s, want %s", got, tt.want)
			}
		})
	}
}

type recorder struct{ claims jwt.Claims }

func (r *recorder) GenerateToken(_ context.Context, claims *jwt.Claims, _ any) (string, error) {
	r.claims = *claims
	return "t", nil
}

// TestTokensSurviveTheClock issues at noon and checks at other times.
func TestTokensSurviveTheClock(t *testing.T) {
	for _, tt := range []struct {
		name           string
		earlier, check time.Time
		ok             bool
	}{
		{"at once", noon, noon, true},
		{"set back by half an hour", noon, noon.Add(-30 * time.Minute), true},
		{"set back by hours", noon, noon.Add(-3 * time.Hour), false},
		{"a jump of years that is taken back", noon.AddDate(-5, 0, 0), noon.AddDate(-5, 0, 0).Add(time.Minute), true},
		{"over", noon, noon.Add(2 * time.Hour), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &recorder{}
			b := backdated{r, func() time.Time { return tt.earlier }}
			claims := &jwt.Claims{IssuedAt: jwt.NewNumericDate(noon), NotBefore: jwt.NewNumericDate(noon), Expiry: jwt.NewNumericDate(noon.Add(time.Hour))}
			if _, err := b.GenerateToken(t.Context(), claims, nil); err != nil {
				t.Fatal(err)
			}
			err := r.claims.Validate(jwt.Expected{Time: tt.check})
			if (err == nil) != tt.ok {
				t.Errorf("checked at %s: %v", tt.check, err)
			}
		})
	}
}
