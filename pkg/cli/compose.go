package cli

import (
	"context"
	"errors"
	"log/slog"

	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/status"
)

func compose(_ context.Context, _ *component.Group, _ config.Completed, _ *slog.Logger, _ status.Notes) (closeAll func() error, err error) {
	return nil, errors.New("compose server: pkg/server and pkg/agent are not part of this build yet")
}
