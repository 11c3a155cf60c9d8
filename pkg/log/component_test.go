package log

import (
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

func TestComponentOf(t *testing.T) {
	tests := []struct{ function, want string }{
		{"k8s.io/kubernetes/pkg/kubelet.(*Kubelet).syncLoop", "kubelet"},
		{"k8s.io/kubernetes/pkg/controller/node.Run", "kube-controller-manager"},
		{"k8s.io/apiserver/pkg/server.Serve", "kube-apiserver"},
		{"k8s.io/client-go/tools/cache.(*Reflector).Run", "client-go"},
		{"k8s.io/utils/exec.New", "kubernetes"},
		{"skiff/pkg/cli.Run", ""},
	}
	for _, tt := range tests {
		if got := componentOf(tt.function); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.function, got, tt.want)
		}
	}
}

// TestKlogCaller checks that the frames of klog are skipped, also inlined ones.
func TestKlogCaller(t *testing.T) {
	t.Cleanup(klog.ClearLogger)
	var function string
	var verbose bool
	const callback = "skiff/pkg/log.TestKlogCaller.func1"
	klog.SetLoggerWithOptions(klog.Background(), klog.WriteKlogBuffer(func([]byte) {
		function, verbose = klogCaller()
	}))
	tests := []struct {
		name    string
		log     func()
		verbose bool
	}{
		{"Info", func() { klog.Info("x") }, false},
		{"Errorf", func() { klog.Errorf("x") }, false},
		{"V", func() { klog.V(0).Infof("x") }, true},
	}
	for _, tt := range tests {
		function = ""
		tt.log()
		if !strings.HasPrefix(function, "skiff/pkg/log.TestKlogCaller.func") || function == callback || verbose != tt.verbose {
			t.Errorf("%s: caller %q, verbose %v", tt.name, function, verbose)
		}
	}
}
