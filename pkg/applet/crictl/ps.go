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

// Labels that the kubelet puts on everything it makes (k8s.io/kubelet types).
const (
	labelPodName      = "io.kubernetes.pod.name"
	labelPodNamespace = "io.kubernetes.pod.namespace"
)

// listFlags are the flags that ps and pods have in common.
type listFlags struct {
	id, name, namespace, state, output string
	labels                             []string
	quiet, noTrunc, latest             bool
	last                               int
}

func (l *listFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&l.id, "id", "", "filter by id or its beginning")
	f.StringVar(&l.name, "name", "", "filter by regular expression on the name")
	f.StringVar(&l.namespace, "namespace", "", "filter by regular expression on the pod's namespace")
	f.StringVarP(&l.state, "state", "s", "", "filter by state")
	f.StringArrayVar(&l.labels, "label", nil, "filter by key=value label, may be repeated")
	f.StringVarP(&l.output, "output", "o", "table", "table, json or yaml")
	f.BoolVarP(&l.quiet, "quiet", "q", false, "only ids")
	f.BoolVar(&l.noTrunc, "no-trunc", false, "whole ids")
	f.BoolVarP(&l.latest, "latest", "l", false, "the newest only")
	f.IntVarP(&l.last, "last", "n", 0, "the newest n only; 0 means all")
}

// named returns a function that reports whether a name and the pod's namespace
// are asked for.
func (l *listFlags) named() (func(name, namespace string) bool, error) {
	name, err := matcher("name", l.name)
	if err != nil {
		return nil, err
	}
	namespace, err := matcher("namespace", l.namespace)
	if err != nil {
		return nil, err
	}
	return func(n, ns string) bool { return name(n) && namespace(ns) }, nil
}

// newest cuts a list, newest first, as --latest and --last say.
func newest[T any](l *listFlags, items []T) []T {
	switch {
	case l.latest:
		return items[:min(1, len(items))]
	case l.last > 0:
		return items[:min(l.last, len(items))]
	}
	return items
}

func (e *environment) psCommand() *cobra.Command {
	var l listFlags
	var all bool
	var pod, image string
	c := &cobra.Command{Use: "ps [flags]", Short: "List containers", Args: cobra.NoArgs}
	l.add(c)
	c.Flags().BoolVarP(&all, "all", "a", false, "all containers, not only running ones")
	c.Flags().StringVarP(&pod, "pod", "p", "", "filter by pod id")
	c.Flags().StringVar(&image, "image", "", "filter by image")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkFormat(l.output, "table", "json", "yaml"); err != nil {
			return err
		}
		s, err := e.runtimeService(c.Context())
		if err != nil {
			return err
		}
		list, err := listContainers(c.Context(), s, &l, all || l.latest || l.last > 0, pod)
		if err != nil {
			return err
		}
		if image != "" {
			if list, err = e.ofImage(c.Context(), list, image); err != nil {
				return err
			}
		}
		return e.printContainers(&l, newest(&l, list))
	}
	return c
}

func listContainers(ctx context.Context, s internalapi.RuntimeService, l *listFlags, all bool, pod string) ([]*runtimeapi.Container, error) {
	filter := &runtimeapi.ContainerFilter{Id: l.id, PodSandboxId: pod}
	state, err := containerState(l.state)
	if err != nil {
		return nil, err
	}
	if state == nil && !all {
		state = &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	}
	filter.State = state
	if filter.LabelSelector, err = labels(l.labels); err != nil {
		return nil, err
	}
	named, err := l.named()
	if err != nil {
		return nil, err
	}
	list, err := s.ListContainers(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	list = slices.DeleteFunc(list, func(c *runtimeapi.Container) bool {
		return !named(c.GetMetadata().GetName(), c.GetLabels()[labelPodNamespace])
	})
	slices.SortFunc(list, func(a, b *runtimeapi.Container) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	return list, nil
}

// ofImage keeps the containers of one image, given by name or id.
func (e *environment) ofImage(ctx context.Context, list []*runtimeapi.Container, image string) ([]*runtimeapi.Container, error) {
	images, err := e.imageService(ctx)
	if err != nil {
		return nil, err
	}
	r, err := images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: image}, false)
	if err != nil {
		return nil, fmt.Errorf("get image %s: %w", image, err)
	}
	return slices.DeleteFunc(list, func(c *runtimeapi.Container) bool {
		return r.GetImage() == nil || (c.GetImageRef() != r.Image.Id && c.GetImage().GetImage() != r.Image.Id && c.GetImageId() != r.Image.Id)
	}), nil
}

func (e *environment) printContainers(l *listFlags, list []*runtimeapi.Container) error {
	if l.output != "table" {
		return structuredList(e.Out, l.output, "containers", list)
	}
	var rows [][]string
	for _, c := range list {
		if l.quiet {
			fmt.Fprintln(e.Out, c.Id)
			continue
		}
		image := c.GetImage().GetImage()
		if strings.HasPrefix(image, "sha256:") {
			image = id(image, l.noTrunc)
		}
		rows = append(rows, []string{
			id(c.Id, l.noTrunc), image, ago(e.Now(), c.CreatedAt), containerStateName(c.State), c.GetMetadata().GetName(),
			strconv.Itoa(int(c.GetMetadata().GetAttempt())), id(c.PodSandboxId, l.noTrunc),
			first(c.Labels[labelPodName], "unknown"), first(c.Labels[labelPodNamespace], "unknown"),
		})
	}
	if l.quiet {
		return nil
	}
	return table(e.Out, []string{"CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE"}, rows)
}

func containerState(s string) (*runtimeapi.ContainerStateValue, error) {
	states := map[string]runtimeapi.ContainerState{
		"created": runtimeapi.ContainerState_CONTAINER_CREATED, "running": runtimeapi.ContainerState_CONTAINER_RUNNING,
		"exited": runtimeapi.ContainerState_CONTAINER_EXITED, "unknown": runtimeapi.ContainerState_CONTAINER_UNKNOWN,
	}
	if s == "" {
		return nil, nil
	}
	v, ok := states[strings.ToLower(s)]
	if !ok {
		return nil, fmt.Errorf("invalid --state %q: want created, running, exited or unknown", s)
	}
	return &runtimeapi.ContainerStateValue{State: v}, nil
}

func containerStateName(s runtimeapi.ContainerState) string {
	name := strings.TrimPrefix(s.String(), "CONTAINER_")
	return name[:1] + strings.ToLower(name[1:])
}
