package server

import (
	"log/slog"

	"skiff/pkg/component"
	"skiff/pkg/server/helm"
)

// addHelm adds what installs HelmCharts, and the charts that the port serves.
// Left out, HelmCharts stay as they are and nobody acts on them, as in K3s.
func (s *Server) addHelm(g *component.Group, after component.Ref, logger *slog.Logger) {
	if s.cfg.Disabled("helm-controller") {
		return
	}
	dir := s.cfg.Paths.Static()
	s.front.Add(staticCharts(helm.Static(dir)))
	g.Add(helm.New(helm.Options{Loopback: s.api.Loopback, Static: dir, Logger: logger}),
		component.After(after), component.Restart(component.Backoff{}))
}
