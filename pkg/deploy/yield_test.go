package deploy

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestStays(t *testing.T) {
	for _, tt := range []struct {
		name, manager, ours, theirs string
		want                        bool
	}{
		{"ours, older", fieldManager, "v1.6.3", "v1.5.10", false},
		{"ours, the same", fieldManager, "v1.6.3", "v1.6.3", false},
		{"ours, newer", fieldManager, "v1.6.3", "v1.10.0", true},
		{"ours, without version", fieldManager, "v1.6.3", "", false},
		{"somebody else's, older", "kubectl", "v1.6.3", "v1.0.0", true},
	} {
		live := object("v1", "ConfigMap", "x")
		live.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: tt.manager, Operation: metav1.ManagedFieldsOperationApply}})
		if got := stays(live, tt.ours, tt.theirs); (got != "") != tt.want {
			t.Errorf("%s: stays = %q, want %t", tt.name, got, tt.want)
		}
	}
}
