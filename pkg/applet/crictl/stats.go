package crictl

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/pause"
)

// statsFlags are the flags that stats and statsp have in common.
type statsFlags struct {
	id, output string
	labels     []string
	seconds    int
	noTrunc    bool
}

func (s *statsFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.id, "id", "", "filter by id or its beginning")
	f.StringArrayVar(&s.labels, "label", nil, "filter by key=value label, may be repeated")
	f.StringVarP(&s.output, "output", "o", "table", "table, json or yaml")
	f.IntVarP(&s.seconds, "seconds", "s", 1, "seconds over which CPU use is measured")
	f.BoolVar(&s.noTrunc, "no-trunc", false, "whole ids")
}

// cpuPercent returns the CPU use between two readings, in percent of one CPU.
func cpuPercent(a, b *runtimeapi.CpuUsage) float64 {
	d := b.GetTimestamp() - a.GetTimestamp()
	if a == nil || b == nil || d <= 0 {
		return 0
	}
	return 100 * (float64(b.GetUsageCoreNanoSeconds().GetValue()) - float64(a.GetUsageCoreNanoSeconds().GetValue())) / float64(d)
}

// gauge is how to read and show what containers or pods use.
type gauge[T proto.Message] struct {
	what  string
	list  func(s internalapi.RuntimeService, labels map[string]string) ([]T, error)
	id    func(T) string
	print func(old map[string]T, now []T) error // now is in the order of ids
}

// measure reads a gauge and prints it: at the beginning and the end of the
// measured time for the table, which shows CPU use, and once for other formats.
func measure[T proto.Message](ctx context.Context, e *environment, s *statsFlags, g gauge[T]) error {
	if err := checkFormat(s.output, "table", "json", "yaml"); err != nil {
		return err
	}
	selector, err := labels(s.labels)
	if err != nil {
		return err
	}
	svc, err := e.runtimeService(ctx)
	if err != nil {
		return err
	}
	before, err := g.list(svc, selector)
	if err != nil {
		return fmt.Errorf("list use of %s: %w", g.what, err)
	}
	if s.output != "table" {
		return structuredList(e.Out, s.output, "stats", before)
	}
	if !pause.For(ctx, time.Duration(s.seconds)*time.Second) {
		return context.Cause(ctx)
	}
	now, err := g.list(svc, selector)
	if err != nil {
		return fmt.Errorf("list use of %s: %w", g.what, err)
	}
	old := map[string]T{}
	for _, b := range before {
		old[g.id(b)] = b
	}
	slices.SortFunc(now, func(a, b T) int { return cmp.Compare(g.id(a), g.id(b)) })
	return g.print(old, now)
}

func (e *environment) statsCommand() *cobra.Command {
	var s statsFlags
	var all bool
	var pod string
	c := &cobra.Command{Use: "stats [flags]", Short: "Show what containers use", Args: cobra.NoArgs}
	s.add(c)
	c.Flags().BoolVarP(&all, "all", "a", false, "all containers, not only running ones")
	c.Flags().StringVarP(&pod, "pod", "p", "", "filter by pod id")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return measure(c.Context(), e, &s, gauge[*runtimeapi.ContainerStats]{
			what: "containers",
			list: func(svc internalapi.RuntimeService, labels map[string]string) ([]*runtimeapi.ContainerStats, error) {
				filter := &runtimeapi.ContainerStatsFilter{Id: s.id, PodSandboxId: pod, LabelSelector: labels}
				return svc.ListContainerStats(c.Context(), filter)
			},
			id: func(u *runtimeapi.ContainerStats) string { return u.GetAttributes().GetId() },
			print: func(old map[string]*runtimeapi.ContainerStats, now []*runtimeapi.ContainerStats) error {
				return e.printStats(&s, all, old, now)
			},
		})
	}
	return c
}

func (e *environment) printStats(s *statsFlags, all bool, old map[string]*runtimeapi.ContainerStats, now []*runtimeapi.ContainerStats) error {
	var rows [][]string
	for _, a := range now {
		if !all && a.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 && a.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
			continue
		}
		rows = append(rows, []string{
			id(a.GetAttributes().GetId(), s.noTrunc), a.GetAttributes().GetMetadata().GetName(),
			fmt.Sprintf("%.2f", cpuPercent(old[a.GetAttributes().GetId()].GetCpu(), a.GetCpu())),
			size(a.GetMemory().GetWorkingSetBytes().GetValue()), size(a.GetWritableLayer().GetUsedBytes().GetValue()),
			strconv.FormatUint(a.GetWritableLayer().GetInodesUsed().GetValue(), 10),
		})
	}
	return table(e.Out, []string{"CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES"}, rows)
}

func (e *environment) statspCommand() *cobra.Command {
	var s statsFlags
	c := &cobra.Command{Use: "statsp [flags]", Short: "Show what pods use", Args: cobra.NoArgs}
	s.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return measure(c.Context(), e, &s, gauge[*runtimeapi.PodSandboxStats]{
			what: "pods",
			list: func(svc internalapi.RuntimeService, labels map[string]string) ([]*runtimeapi.PodSandboxStats, error) {
				return svc.ListPodSandboxStats(c.Context(), &runtimeapi.PodSandboxStatsFilter{Id: s.id, LabelSelector: labels})
			},
			id: func(u *runtimeapi.PodSandboxStats) string { return u.GetAttributes().GetId() },
			print: func(old map[string]*runtimeapi.PodSandboxStats, now []*runtimeapi.PodSandboxStats) error {
				return e.printPodStats(&s, old, now)
			},
		})
	}
	return c
}

func (e *environment) printPodStats(s *statsFlags, old map[string]*runtimeapi.PodSandboxStats, now []*runtimeapi.PodSandboxStats) error {
	var rows [][]string
	for _, a := range now {
		rows = append(rows, []string{
			a.GetAttributes().GetMetadata().GetName(), id(a.GetAttributes().GetId(), s.noTrunc),
			fmt.Sprintf("%.2f", cpuPercent(old[a.GetAttributes().GetId()].GetLinux().GetCpu(), a.GetLinux().GetCpu())),
			size(a.GetLinux().GetMemory().GetWorkingSetBytes().GetValue()),
		})
	}
	return table(e.Out, []string{"POD", "POD ID", "CPU %", "MEM"}, rows)
}
