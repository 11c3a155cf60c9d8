// Package events writes Events about objects, as `kubectl describe` shows them.
// It must not know what has happened. Start reading at NewRecorder.
package events

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// NewRecorder returns a recorder of what a component has to say, on one node if
// host is not empty. It writes in the background until stop or the end of ctx;
// like all Events these may be lost.
func NewRecorder(ctx context.Context, client kubernetes.Interface, component, host string) (recorder record.EventRecorder, stop func()) {
	b := record.NewBroadcaster(record.WithContext(ctx))
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component, Host: host}), b.Shutdown
}
