package crictl

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// inspector gets the status of one thing with the runtime's information.
type inspector func(ctx context.Context, name string) (proto.Message, map[string]string, error)

// inspect makes a command that prints the status of what it is given.
func (e *environment) inspect(c *cobra.Command, get inspector) *cobra.Command {
	var output string
	var quiet bool
	c.Flags().StringVarP(&output, "output", "o", "json", "json or yaml")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "the status only, without the runtime's own information")
	c.Args = cobra.MinimumNArgs(1)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkFormat(output, "json", "yaml"); err != nil {
			return err
		}
		return each(args, func(name string) error {
			status, info, err := get(c.Context(), name)
			if err != nil {
				return err
			}
			if quiet {
				info = nil
			}
			v, err := withInfo(status, info)
			if err != nil {
				return fmt.Errorf("render %s: %w", name, err)
			}
			return structured(e.Out, output, v)
		})
	}
	return c
}

func (e *environment) inspectCommand() *cobra.Command {
	c := &cobra.Command{Use: "inspect [flags] CONTAINER-ID...", Short: "Show everything about containers"}
	return e.inspect(c, func(ctx context.Context, name string) (proto.Message, map[string]string, error) {
		s, err := e.runtimeService(ctx)
		if err != nil {
			return nil, nil, err
		}
		r, err := s.ContainerStatus(ctx, name, true)
		if err != nil {
			return nil, nil, fmt.Errorf("get container %s: %w", name, err)
		}
		return r.Status, r.Info, nil
	})
}

func (e *environment) inspectpCommand() *cobra.Command {
	c := &cobra.Command{Use: "inspectp [flags] POD-ID...", Short: "Show everything about pods"}
	return e.inspect(c, func(ctx context.Context, name string) (proto.Message, map[string]string, error) {
		s, err := e.runtimeService(ctx)
		if err != nil {
			return nil, nil, err
		}
		r, err := s.PodSandboxStatus(ctx, name, true)
		if err != nil {
			return nil, nil, fmt.Errorf("get pod %s: %w", name, err)
		}
		return r.Status, r.Info, nil
	})
}

func (e *environment) inspectiCommand() *cobra.Command {
	c := &cobra.Command{Use: "inspecti [flags] IMAGE...", Short: "Show everything about images"}
	return e.inspect(c, func(ctx context.Context, name string) (proto.Message, map[string]string, error) {
		s, err := e.imageService(ctx)
		if err != nil {
			return nil, nil, err
		}
		r, err := s.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: name}, true)
		if err != nil {
			return nil, nil, fmt.Errorf("get image %s: %w", name, err)
		}
		if r.Image == nil {
			return nil, nil, fmt.Errorf("no such image %s", name)
		}
		return r.Image, r.Info, nil
	})
}

func (e *environment) infoCommand() *cobra.Command {
	var output string
	var quiet bool
	c := &cobra.Command{Use: "info [flags]", Short: "Show the state of the runtime", Args: cobra.NoArgs}
	c.Flags().StringVarP(&output, "output", "o", "json", "json or yaml")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "the status only, without the runtime's own information")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkFormat(output, "json", "yaml"); err != nil {
			return err
		}
		s, err := e.runtimeService(c.Context())
		if err != nil {
			return err
		}
		r, err := s.Status(c.Context(), !quiet)
		if err != nil {
			return fmt.Errorf("get status of the runtime: %w", err)
		}
		v, err := withInfo(r.Status, r.Info)
		if err != nil {
			return fmt.Errorf("render status: %w", err)
		}
		return structured(e.Out, output, v)
	}
	return c
}

func (e *environment) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of the runtime", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := e.runtimeService(c.Context())
			if err != nil {
				return err
			}
			r, err := s.Version(c.Context(), "v1")
			if err != nil {
				return fmt.Errorf("get version of the runtime: %w", err)
			}
			fmt.Fprintf(e.Out, "Version:  %s\nRuntimeName:  %s\nRuntimeVersion:  %s\nRuntimeApiVersion:  %s\n",
				r.Version, r.RuntimeName, r.RuntimeVersion, r.RuntimeApiVersion)
			return nil
		},
	}
}

func (e *environment) imageFsCommand() *cobra.Command {
	var output string
	c := &cobra.Command{Use: "imagefsinfo [flags]", Short: "Show what images take on disk", Args: cobra.NoArgs}
	c.Flags().StringVarP(&output, "output", "o", "json", "json or yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkFormat(output, "json", "yaml"); err != nil {
			return err
		}
		s, err := e.imageService(c.Context())
		if err != nil {
			return err
		}
		r, err := s.ImageFsInfo(c.Context())
		if err != nil {
			return fmt.Errorf("get file system of images: %w", err)
		}
		if r == nil {
			return errors.New("the runtime says nothing about the file system of images")
		}
		v, err := messageValue(r)
		if err != nil {
			return fmt.Errorf("render: %w", err)
		}
		return structured(e.Out, output, map[string]any{"status": v})
	}
	return c
}
