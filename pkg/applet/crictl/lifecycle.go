package crictl

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// verb makes a command that does one thing to each of its arguments.
func (e *environment) verb(c *cobra.Command, do func(context.Context, internalapi.RuntimeService, string) error) *cobra.Command {
	c.Args = cobra.MinimumNArgs(1)
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := e.runtimeService(c.Context())
		if err != nil {
			return err
		}
		return each(args, func(name string) error { return do(c.Context(), s, name) })
	}
	return c
}

func (e *environment) startCommand() *cobra.Command {
	c := &cobra.Command{Use: "start CONTAINER-ID...", Short: "Start created containers"}
	return e.verb(c, func(ctx context.Context, s internalapi.RuntimeService, name string) error {
		if err := s.StartContainer(ctx, name); err != nil {
			return fmt.Errorf("start container %s: %w", name, err)
		}
		fmt.Fprintln(e.Out, name)
		return nil
	})
}

func (e *environment) stopCommand() *cobra.Command {
	var timeout int64
	c := &cobra.Command{Use: "stop [flags] CONTAINER-ID...", Short: "Stop running containers"}
	c.Flags().Int64VarP(&timeout, "timeout", "t", 0, "seconds to wait before the container is killed")
	return e.verb(c, func(ctx context.Context, s internalapi.RuntimeService, name string) error {
		if err := s.StopContainer(ctx, name, timeout); err != nil {
			return fmt.Errorf("stop container %s: %w", name, err)
		}
		fmt.Fprintln(e.Out, name)
		return nil
	})
}

func (e *environment) stoppCommand() *cobra.Command {
	c := &cobra.Command{Use: "stopp POD-ID...", Short: "Stop pods"}
	return e.verb(c, func(ctx context.Context, s internalapi.RuntimeService, name string) error {
		if err := s.StopPodSandbox(ctx, name); err != nil {
			return fmt.Errorf("stop pod %s: %w", name, err)
		}
		fmt.Fprintf(e.Out, "Stopped sandbox %s\n", name)
		return nil
	})
}

func (e *environment) rmCommand() *cobra.Command {
	var force, all bool
	c := &cobra.Command{Use: "rm [flags] CONTAINER-ID...", Short: "Remove containers"}
	c.Flags().BoolVarP(&force, "force", "f", false, "running ones too")
	c.Flags().BoolVarP(&all, "all", "a", false, "all containers")
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx := c.Context()
		if len(args) == 0 && !all {
			return errors.New("name a container, or use --all")
		}
		s, err := e.runtimeService(ctx)
		if err != nil {
			return err
		}
		if all {
			list, err := s.ListContainers(ctx, &runtimeapi.ContainerFilter{})
			if err != nil {
				return fmt.Errorf("list containers: %w", err)
			}
			for _, c := range list {
				args = append(args, c.Id)
			}
		}
		return each(args, func(name string) error { return e.removeContainer(ctx, s, name, force) })
	}
	return c
}

func (e *environment) removeContainer(ctx context.Context, s internalapi.RuntimeService, name string, force bool) error {
	r, err := s.ContainerStatus(ctx, name, false)
	if err != nil {
		return fmt.Errorf("get container %s: %w", name, err)
	}
	if r.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING {
		if !force {
			return fmt.Errorf("container %s is running: stop it first, or use --force", name)
		}
		if err := s.StopContainer(ctx, name, 0); err != nil {
			return fmt.Errorf("stop container %s: %w", name, err)
		}
	}
	if err := s.RemoveContainer(ctx, name); err != nil {
		return fmt.Errorf("remove container %s: %w", name, err)
	}
	fmt.Fprintln(e.Out, name)
	return nil
}

func (e *environment) rmpCommand() *cobra.Command {
	var force, all bool
	c := &cobra.Command{Use: "rmp [flags] POD-ID...", Short: "Remove pods"}
	c.Flags().BoolVarP(&force, "force", "f", false, "ready ones too")
	c.Flags().BoolVarP(&all, "all", "a", false, "all pods")
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx := c.Context()
		if len(args) == 0 && !all {
			return errors.New("name a pod, or use --all")
		}
		s, err := e.runtimeService(ctx)
		if err != nil {
			return err
		}
		if all {
			list, err := s.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{})
			if err != nil {
				return fmt.Errorf("list pods: %w", err)
			}
			for _, p := range list {
				args = append(args, p.Id)
			}
		}
		return each(args, func(name string) error { return e.removePod(ctx, s, name, force) })
	}
	return c
}

func (e *environment) removePod(ctx context.Context, s internalapi.RuntimeService, name string, force bool) error {
	r, err := s.PodSandboxStatus(ctx, name, false)
	if err != nil {
		return fmt.Errorf("get pod %s: %w", name, err)
	}
	if r.GetStatus().GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
		if !force {
			return fmt.Errorf("pod %s is ready: stop it first, or use --force", name)
		}
		if err := s.StopPodSandbox(ctx, name); err != nil {
			return fmt.Errorf("stop pod %s: %w", name, err)
		}
	}
	if err := s.RemovePodSandbox(ctx, name); err != nil {
		return fmt.Errorf("remove pod %s: %w", name, err)
	}
	fmt.Fprintf(e.Out, "Removed sandbox %s\n", name)
	return nil
}

// usedImages lists the ids of images that containers use; none when only is false.
func (e *environment) usedImages(ctx context.Context, only bool) (map[string]bool, error) {
	used := map[string]bool{}
	if !only {
		return used, nil
	}
	s, err := e.runtimeService(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.ListContainers(ctx, &runtimeapi.ContainerFilter{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	images, err := e.imageService(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		r, err := images.ImageStatus(ctx, c.GetImage(), false)
		if err != nil {
			return nil, fmt.Errorf("get image of container %s: %w", c.Id, err)
		}
		used[r.GetImage().GetId()] = true
	}
	return used, nil
}
