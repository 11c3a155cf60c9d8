package crictl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crilogs "k8s.io/cri-client/pkg/logs"
)

func (e *environment) logsCommand() *cobra.Command {
	var follow, timestamps, previous, reopen bool
	var tail, limit int64
	var since string
	c := &cobra.Command{Use: "logs [flags] CONTAINER-ID", Short: "Print the log of a container", Args: cobra.ExactArgs(1)}
	f := c.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "print what comes, too")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "print the time of each line")
	f.BoolVarP(&previous, "previous", "p", false, "print the log of the instance before this one")
	f.BoolVarP(&reopen, "reopen", "r", false, "make the runtime open the log file again, first")
	f.Int64Var(&tail, "tail", -1, "print the last n lines; negative means all")
	f.Int64Var(&limit, "limit-bytes", -1, "print at most n bytes; negative means no limit")
	f.StringVar(&since, "since", "", "print lines newer than a duration (5s, 3h) or an RFC 3339 time")
	c.RunE = func(c *cobra.Command, args []string) error {
		opts := &crilogs.LogOptions{Follow: follow, Timestamp: timestamps}
		if tail >= 0 {
			opts.TailLines = &tail
		}
		if limit >= 0 {
			opts.LimitBytes = &limit
		}
		var err error
		if opts.Since, err = parseSince(since, e.Now()); err != nil {
			return err
		}
		s, err := e.runtimeService(c.Context())
		if err != nil {
			return err
		}
		st, err := logOf(c.Context(), s, args[0], previous)
		if err != nil {
			return err
		}
		if reopen {
			if err := s.ReopenContainerLog(c.Context(), st.Id); err != nil {
				return fmt.Errorf("open the log of container %s again: %w", args[0], err)
			}
		}
		err = crilogs.ReadLogs(c.Context(), st.LogPath, st.Id, opts, s, e.Out, e.Err)
		if err != nil && c.Context().Err() == nil {
			return fmt.Errorf("read log of container %s: %w", args[0], err)
		}
		return nil
	}
	return c
}

// logOf returns the status of the container whose log is asked for.
func logOf(ctx context.Context, s internalapi.RuntimeService, name string, previous bool) (*runtimeapi.ContainerStatus, error) {
	r, err := s.ContainerStatus(ctx, name, false)
	if err != nil {
		return nil, fmt.Errorf("get container %s: %w", name, err)
	}
	st := r.GetStatus()
	if previous {
		if st, err = before(ctx, s, st); err != nil {
			return nil, err
		}
	}
	if st.GetLogPath() == "" {
		return nil, fmt.Errorf("container %s has no log file", name)
	}
	return st, nil
}

// before finds the instance of a container before the given one.
func before(ctx context.Context, s internalapi.RuntimeService, st *runtimeapi.ContainerStatus) (*runtimeapi.ContainerStatus, error) {
	const podUID = "io.kubernetes.pod.uid"
	meta := st.GetMetadata()
	list, err := s.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: map[string]string{podUID: st.Labels[podUID]}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range list {
		if c.GetMetadata().GetName() == meta.GetName() && c.GetMetadata().GetAttempt()+1 == meta.GetAttempt() {
			r, err := s.ContainerStatus(ctx, c.Id, false)
			if err != nil {
				return nil, fmt.Errorf("get container %s: %w", c.Id, err)
			}
			return r.GetStatus(), nil
		}
	}
	return nil, fmt.Errorf("container %s has no instance before attempt %d", meta.GetName(), meta.GetAttempt())
}

// parseSince reads a duration or a time.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("invalid --since %q: want a duration like 10m or a time like 2006-01-02T15:04:05Z", s)
	}
	return t, nil
}
