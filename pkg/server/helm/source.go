package helm

import (
	"bytes"
	"context"
	"encoding/base64"
	"strings"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
)

// maxArchive is the largest archive that is read. Helm refuses more than that
// unpacked.
const maxArchive = 64 << 20

// local returns the archive of a chart that needs no network, or nil.
func (s *chartSpec) local(static string) ([]byte, error) {
	if s.ChartContent != "" {
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s.ChartContent), ""))
		if err != nil {
			return nil, badChart(err, "spec.chartContent is not base64; make it with `base64 -w0 chart.tgz`")
		}
		return b, nil
	}
	if name, ok := s.staticPath(static); ok {
		return readStatic(static, name)
	}
	return nil, nil
}

// load returns the chart of a plan. It never touches the disk's caches that
// Helm's command line keeps.
func (w *worker) load(ctx context.Context, p *plan) (*chart.Chart, error) {
	archive := p.archive
	if archive == nil {
		r, err := w.remote(ctx, p.chart)
		if err != nil {
			return nil, err
		}
		if archive, err = r.fetch(ctx, &p.chart.Spec); err != nil {
			return nil, err
		}
	}
	c, err := loader.LoadArchive(bytes.NewReader(archive))
	if err != nil {
		return nil, badChart(err, "the chart's archive cannot be read")
	}
	if err := c.Validate(); err != nil {
		return nil, badChart(err, "the chart is not valid")
	}
	if t := c.Metadata.Type; t != "" && t != "application" {
		return nil, badChart(nil, "the chart's type is %q; only those of type application can be installed", t)
	}
	if err := complete(c); err != nil {
		return nil, err
	}
	return c, nil
}

// complete checks that the charts that this one depends on are in its archive.
func complete(c *chart.Chart) error {
	var missing []string
	for _, d := range c.Metadata.Dependencies {
		found := false
		for _, sub := range c.Dependencies() {
			found = found || sub.Name() == d.Name
		}
		if !found {
			missing = append(missing, d.Name)
		}
	}
	if len(missing) > 0 {
		return badChart(nil, "the archive lacks the charts it depends on: %s; run `helm dependency update` before `helm package`", strings.Join(missing, ", "))
	}
	return nil
}
