package controllers

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/sets"
	helper "k8s.io/controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
)

func TestPostpone(t *testing.T) {
	const name = names.ValidatingAdmissionPolicyStatusController
	tests := []struct {
		name string
		list []string
		want []string
		had  bool
	}{
		{"upstream's default", []string{"*"}, []string{"*", "-" + name}, true},
		{"named by the user", []string{name, "job-controller"}, []string{"job-controller", "-" + name}, true},
		{"left out by the user", []string{"*", "-" + name}, []string{"*", "-" + name}, false},
		{"only others", []string{"job-controller"}, []string{"job-controller"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, had := postpone(tt.list)
			if diff := cmp.Diff(tt.want, list); diff != "" {
				t.Error(diff)
			}
			if had != tt.had {
				t.Errorf("had = %v, want %v", had, tt.had)
			}
			if helper.IsControllerEnabled(name, sets.NewString(app.ControllersDisabledByDefault()...), list) {
				t.Error("the controller manager would still start it")
			}
		})
	}
}
