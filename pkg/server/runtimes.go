package server

import (
	"context"
	"fmt"
	"log/slog"

	"k8s.io/client-go/kubernetes"

	"skiff/pkg/component"
	"skiff/pkg/server/runtimeclass"
)

// addRuntimeClasses adds the RuntimeClasses of what nodes have found, or, where
// they are left out, removes those made before.
func (s *Server) addRuntimeClasses(g *component.Group, api component.Ref, logger *slog.Logger) {
	if !s.cfg.Disabled("runtimes") {
		g.Add(runtimeclass.New(runtimeclass.Options{Loopback: s.api.Loopback, Logger: logger}),
			component.After(api), component.Restart(component.Backoff{}))
		return
	}
	g.Task("runtime-classes-off", func(ctx context.Context) error {
		client, err := kubernetes.NewForConfig(s.api.Loopback())
		if err != nil {
			return fmt.Errorf("make client to remove runtime classes: %w", err)
		}
		return runtimeclass.Clear(ctx, client)
	}, component.After(api))
}
