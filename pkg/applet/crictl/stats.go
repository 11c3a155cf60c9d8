package crictl

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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

// twice calls get at the beginning and the end of the measured time.
func twice[T any](ctx context.Context, d time.Duration, get func() ([]T, error)) (before, after []T, err error) {
	if before, err = get(); err != nil {
		return nil, nil, err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	case <-t.C:
	}
	after, err = get()
	return before, after, err
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
		if err := checkFormat(s.output, "table", "json", "yaml"); err != nil {
			return err
		}
		selector, err := labels(s.labels)
		if err != nil {
			return err
		}
		svc, err := e.runtimeService(c.Context())
		if err != nil {
			return err
		}
		filter := &runtimeapi.ContainerStatsFilter{Id: s.id, PodSandboxId: pod, LabelSelector: selector}
		get := func() ([]*runtimeapi.ContainerStats, error) {
			list, err := svc.ListContainerStats(c.Context(), filter)
			if err != nil {
				return nil, fmt.Errorf("list use of containers: %w", err)
			}
			return list, nil
		}
		if s.output != "table" {
			list, err := get()
			if err != nil {
				return err
			}
			return structuredList(e.Out, s.output, "stats", list)
		}
		before, after, err := twice(c.Context(), time.Duration(s.seconds)*time.Second, get)
		if err != nil {
			return err
		}
		return e.printStats(&s, all, before, after)
	}
	return c
}

func (e *environment) printStats(s *statsFlags, all bool, before, after []*runtimeapi.ContainerStats) error {
	old := map[string]*runtimeapi.ContainerStats{}
	for _, b := range before {
		old[b.GetAttributes().GetId()] = b
	}
	slices.SortFunc(after, func(a, b *runtimeapi.ContainerStats) int {
		return cmp.Compare(a.GetAttributes().GetId(), b.GetAttributes().GetId())
	})
	var rows [][]string
	for _, a := range after {
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
		if err := checkFormat(s.output, "table", "json", "yaml"); err != nil {
			return err
		}
		selector, err := labels(s.labels)
		if err != nil {
			return err
		}
		svc, err := e.runtimeService(c.Context())
		if err != nil {
			return err
		}
		get := func() ([]*runtimeapi.PodSandboxStats, error) {
			list, err := svc.ListPodSandboxStats(c.Context(), &runtimeapi.PodSandboxStatsFilter{Id: s.id, LabelSelector: selector})
			if err != nil {
				return nil, fmt.Errorf("list use of pods: %w", err)
			}
			return list, nil
		}
		if s.output != "table" {
			list, err := get()
			if err != nil {
				return err
			}
			return structuredList(e.Out, s.output, "stats", list)
		}
		before, after, err := twice(c.Context(), time.Duration(s.seconds)*time.Second, get)
		if err != nil {
			return err
		}
		return e.printPodStats(&s, before, after)
	}
	return c
}

func (e *environment) printPodStats(s *statsFlags, before, after []*runtimeapi.PodSandboxStats) error {
	old := map[string]*runtimeapi.PodSandboxStats{}
	for _, b := range before {
		old[b.GetAttributes().GetId()] = b
	}
	slices.SortFunc(after, func(a, b *runtimeapi.PodSandboxStats) int {
		return cmp.Compare(a.GetAttributes().GetId(), b.GetAttributes().GetId())
	})
	var rows [][]string
	for _, a := range after {
		rows = append(rows, []string{
			a.GetAttributes().GetMetadata().GetName(), id(a.GetAttributes().GetId(), s.noTrunc),
			fmt.Sprintf("%.2f", cpuPercent(old[a.GetAttributes().GetId()].GetLinux().GetCpu(), a.GetLinux().GetCpu())),
			size(a.GetLinux().GetMemory().GetWorkingSetBytes().GetValue()),
		})
	}
	return table(e.Out, []string{"POD", "POD ID", "CPU %", "MEM"}, rows)
}
