package crictl

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (e *environment) podsCommand() *cobra.Command {
	var l listFlags
	c := &cobra.Command{Use: "pods [flags]", Short: "List pods", Args: cobra.NoArgs}
	l.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkFormat(l.output, "table", "json", "yaml"); err != nil {
			return err
		}
		s, err := e.runtimeService(c.Context())
		if err != nil {
			return err
		}
		list, err := listPods(c.Context(), s, &l)
		if err != nil {
			return err
		}
		return e.printPods(&l, newest(&l, list))
	}
	return c
}

func listPods(ctx context.Context, s internalapi.RuntimeService, l *listFlags) ([]*runtimeapi.PodSandbox, error) {
	filter := &runtimeapi.PodSandboxFilter{Id: l.id}
	switch strings.ToLower(l.state) {
	case "":
	case "ready":
		filter.State = &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	case "notready":
		filter.State = &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}
	default:
		return nil, fmt.Errorf("invalid --state %q: want ready or notready", l.state)
	}
	var err error
	if filter.LabelSelector, err = labels(l.labels); err != nil {
		return nil, err
	}
	named, err := l.named()
	if err != nil {
		return nil, err
	}
	list, err := s.ListPodSandbox(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	list = slices.DeleteFunc(list, func(p *runtimeapi.PodSandbox) bool {
		return !named(p.GetMetadata().GetName(), p.GetMetadata().GetNamespace())
	})
	slices.SortFunc(list, func(a, b *runtimeapi.PodSandbox) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	return list, nil
}

func (e *environment) printPods(l *listFlags, list []*runtimeapi.PodSandbox) error {
	if l.output != "table" {
		return structuredList(e.Out, l.output, "items", list)
	}
	var rows [][]string
	for _, p := range list {
		if l.quiet {
			fmt.Fprintln(e.Out, p.Id)
			continue
		}
		state := "NotReady"
		if p.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			state = "Ready"
		}
		rows = append(rows, []string{
			id(p.Id, l.noTrunc), ago(e.Now(), p.CreatedAt), state, p.GetMetadata().GetName(), p.GetMetadata().GetNamespace(),
			strconv.Itoa(int(p.GetMetadata().GetAttempt())), first(p.RuntimeHandler, "(default)"),
		})
	}
	if l.quiet {
		return nil
	}
	return table(e.Out, []string{"POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"}, rows)
}
