package dns

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reporter tells people that their Corefile does not work.
type reporter struct {
	client *client
	notes  Notes
	logger *slog.Logger
	last   string
}

// ok takes back what broken said.
func (r *reporter) ok() {
	if r.last != "" {
		r.notes.Clear(noteKey)
		r.last = ""
	}
}

// broken says it in the log, in `skiff status` and as an Event on the ConfigMap;
// the same message once.
func (r *reporter) broken(ctx context.Context, in input, err error) {
	msg := err.Error()
	if msg == r.last {
		return
	}
	r.last = msg
	r.logger.Warn("configuration of cluster DNS does not work, the last good one stays", "error", err)
	r.notes.Set(noteKey, "configuration does not work, the last good one stays: "+msg)
	name := customConfigMap
	if in.Corefile != "" {
		name = mainConfigMap
	}
	if err := r.event(ctx, name, msg); err != nil {
		r.logger.Debug("write event", "error", err)
	}
}

func (r *reporter) event(ctx context.Context, configMap, msg string) error {
	cm, err := r.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, configMap, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get ConfigMap %s: %w", configMap, err)
	}
	now := metav1.NewTime(time.Now())
	_, err = r.client.CoreV1().Events(metav1.NamespaceSystem).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: configMap + ".", Namespace: metav1.NamespaceSystem},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: cm.Namespace, Name: cm.Name, UID: cm.UID, ResourceVersion: cm.ResourceVersion},
		Reason:         "CorefileInvalid", Message: msg, Type: corev1.EventTypeWarning,
		Source: corev1.EventSource{Component: fieldManager}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	return err
}
