// Package crictl has the everyday verbs of crictl, the client for container
// runtimes, with crictl's own names, flags and output. It speaks the CRI to
// this node's containerd and knows nothing else of skiff. Start reading at Main.
package crictl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	criclient "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"

	"skiff/pkg/paths"
)

// Main runs crictl with the arguments after its name and returns the exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The CRI client and gRPC log what they also return.
	ctx = klog.NewContext(ctx, logr.Discard())
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	env := &environment{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Now: time.Now}
	return run(ctx, env, args)
}

// environment is what a command works with.
type environment struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Now      func() time.Time

	runtimeEndpoint, imageEndpoint string
	timeout                        time.Duration
	runtime                        internalapi.RuntimeService      // nil until needed
	images                         internalapi.ImageManagerService // nil until needed
}

// exitCode is an error that only sets the exit code: the program run by exec
// has said itself what was wrong.
type exitCode int

// Error implements error.
func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func run(ctx context.Context, e *environment, args []string) int {
	root := e.root()
	root.SetArgs(args)
	root.SetIn(e.In)
	root.SetOut(e.Out)
	root.SetErr(e.Err)
	err := root.ExecuteContext(ctx)
	e.close(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintf(e.Err, "crictl: %s\n", message(err))
	return 1
}

func (e *environment) root() *cobra.Command {
	root := &cobra.Command{
		Use: "crictl", Short: "Look at and handle this node's containers through the CRI",
		SilenceUsage: true, SilenceErrors: true, TraverseChildren: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		if like := c.SuggestionsFor(args[0]); len(like) > 0 {
			return fmt.Errorf("unknown command %q; did you mean %s?", args[0], strings.Join(like, " or "))
		}
		return fmt.Errorf("unknown command %q; crictl --help lists those there are", args[0])
	}
	root.Args = cobra.ArbitraryArgs
	root.SuggestionsMinimumDistance = 2
	f := root.Flags()
	f.StringVarP(&e.runtimeEndpoint, "runtime-endpoint", "r", "", "endpoint of the runtime; default $CONTAINER_RUNTIME_ENDPOINT, else skiff's own containerd")
	f.StringVarP(&e.imageEndpoint, "image-endpoint", "i", "", "endpoint of the image service; default $IMAGE_SERVICE_ENDPOINT, else that of the runtime")
	f.DurationVarP(&e.timeout, "timeout", "t", 10*time.Second, "how long to wait for the runtime")
	for _, c := range []*cobra.Command{
		e.psCommand(), e.podsCommand(), e.imagesCommand(),
		e.inspectCommand(), e.inspectpCommand(), e.inspectiCommand(),
		e.logsCommand(), e.execCommand(), e.statsCommand(), e.statspCommand(),
		e.pullCommand(), e.rmiCommand(), e.imageFsCommand(),
		e.stopCommand(), e.stoppCommand(), e.rmCommand(), e.rmpCommand(), e.startCommand(),
		e.infoCommand(), e.versionCommand(),
	} {
		c.DisableFlagsInUseLine = true
		root.AddCommand(c)
	}
	return root
}

// endpoints returns where the runtime and the image service are.
func (e *environment) endpoints() (runtime, image string) {
	runtime = first(e.runtimeEndpoint, e.Getenv("CONTAINER_RUNTIME_ENDPOINT"), "unix://"+paths.New(paths.DefaultData).ContainerdSocket())
	return withScheme(runtime), withScheme(first(e.imageEndpoint, e.Getenv("IMAGE_SERVICE_ENDPOINT"), runtime))
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

func withScheme(endpoint string) string {
	if strings.HasPrefix(endpoint, "/") {
		return "unix://" + endpoint
	}
	return endpoint
}

// runtimeService connects to the runtime at first use.
func (e *environment) runtimeService(ctx context.Context) (internalapi.RuntimeService, error) {
	if e.runtime != nil {
		return e.runtime, nil
	}
	endpoint, _ := e.endpoints()
	s, err := criclient.NewRemoteRuntimeService(ctx, endpoint, e.timeout, nil, false)
	if err != nil {
		return nil, unreachable(endpoint, err)
	}
	e.runtime = s
	return s, nil
}

// imageService connects to the image service at first use.
func (e *environment) imageService(ctx context.Context) (internalapi.ImageManagerService, error) {
	if e.images != nil {
		return e.images, nil
	}
	_, endpoint := e.endpoints()
	s, err := criclient.NewRemoteImageService(ctx, endpoint, e.timeout, nil, false)
	if err != nil {
		return nil, unreachable(endpoint, err)
	}
	e.images = s
	return s, nil
}

func (e *environment) close(ctx context.Context) {
	// There is nothing to do about an error: the process ends.
	if e.runtime != nil {
		_ = e.runtime.Close(ctx)
	}
	if e.images != nil {
		_ = e.images.Close(ctx)
	}
}

// unreachable explains why there is no connection, in place of gRPC's account.
func unreachable(endpoint string, err error) error {
	path := strings.TrimPrefix(endpoint, "unix://")
	_, serr := os.Stat(path)
	switch {
	case path != endpoint && errors.Is(serr, os.ErrNotExist):
		return fmt.Errorf("the container runtime at %s was not found: is skiff running on this node? (skiff status)", endpoint)
	case path != endpoint && errors.Is(serr, os.ErrPermission), strings.Contains(err.Error(), "permission denied"):
		return fmt.Errorf("no permission to use the container runtime at %s: run as root", endpoint)
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("the container runtime at %s does not answer: is skiff running on this node? (skiff status)", endpoint)
	}
	return fmt.Errorf("connect to the container runtime at %s: %w", endpoint, err)
}

// message is what a person wants to read of an error: not that it came by gRPC.
func message(err error) string {
	s := err.Error()
	if i := strings.Index(s, "rpc error: code = "); i >= 0 {
		if _, desc, ok := strings.Cut(s[i:], " desc = "); ok {
			return s[:i] + desc
		}
	}
	return s
}

// each calls fn for every argument and collects the errors.
func each(args []string, fn func(string) error) error {
	var errs []error
	for _, a := range args {
		if err := fn(a); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
