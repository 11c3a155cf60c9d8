package halt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/backoff"
	"skiff/internal/pause"
	"skiff/pkg/process"
)

const (
	// runtimeLimit is how long containerd may take to answer.
	runtimeLimit = 30 * time.Second
	// defaultGrace is that of a pod that does not say.
	defaultGrace = 30 * time.Second
	// networkLimit is for taking a pod's network and sandbox away.
	networkLimit = 30 * time.Second
)

// Where the kubelet keeps what it must know of a container when nobody can be
// asked about the pod.
//
// Source: k8s.io/kubernetes, pkg/kubelet/kuberuntime/labels.go.
const (
	graceNote   = "io.kubernetes.pod.terminationGracePeriod"
	preStopNote = "io.kubernetes.container.preStopHandler"
	podName     = "io.kubernetes.pod.name"
	podSpace    = "io.kubernetes.pod.namespace"
)

// Drain lets all pods end as if they had been deleted: their preStop commands
// run, their processes are asked to stop, and have as long for that as the pod
// says, but not longer than limit. Then their networks are taken away. It is
// called when skiff itself has been stopped, so that nobody starts them again;
// containerd is started for as long as it takes. To the cluster the pods are
// where they were: the next start of skiff starts them again.
func (h *Halt) Drain(ctx context.Context, limit time.Duration, logger *slog.Logger) error {
	if _, err := os.Stat(h.Layout.ContainerdConfig()); errors.Is(err, fs.ErrNotExist) {
		return nil // This was never a node.
	}
	ctx, cancel := context.WithCancel(ctx)
	child := process.Self("containerd", "-c", h.Layout.ContainerdConfig())
	child.Env = append(os.Environ(), "PATH="+h.Layout.Bin()+string(os.PathListSeparator)+os.Getenv("PATH"), "NOTIFY_SOCKET=")
	child.Logger = logger
	child.LogParse = func(line string) (slog.Level, string, []slog.Attr) { return slog.LevelDebug, line, nil }
	ended := make(chan error, 1)
	go func() { ended <- child.Run(ctx) }()
	err := h.drain(ctx, limit, ended)
	cancel()
	select {
	case <-ended: // It may have been received already.
	case <-time.After(process.DefaultStopTimeout + killLimit):
	}
	return err
}

func (h *Halt) drain(ctx context.Context, limit time.Duration, ended chan error) error {
	conn, err := grpc.NewClient("unix://"+h.Layout.ContainerdSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("reach containerd: %w", err)
	}
	defer conn.Close()
	d := &drainer{client: cri.NewRuntimeServiceClient(conn), limit: limit, say: h.Say}
	if err := d.wait(ctx, ended); err != nil {
		return err
	}
	containers, err := d.client.ListContainers(ctx, &cri.ListContainersRequest{
		Filter: &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}},
	})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	pods, err := d.client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{
		Filter: &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}},
	})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	of := map[string][]*cri.Container{}
	for _, c := range containers.GetContainers() {
		of[c.GetPodSandboxId()] = append(of[c.GetPodSandboxId()], c)
	}
	var wg sync.WaitGroup
	errs := make([]error, len(pods.GetItems()))
	for i, p := range pods.GetItems() {
		wg.Go(func() { errs[i] = d.pod(ctx, p, of[p.GetId()]) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

type drainer struct {
	client cri.RuntimeServiceClient
	limit  time.Duration
	say    func(format string, args ...any)
}

// wait returns when the runtime answers.
func (d *drainer) wait(ctx context.Context, ended chan error) error {
	ctx, cancel := context.WithTimeout(ctx, runtimeLimit)
	defer cancel()
	again := backoff.Sequence{Min: 20 * time.Millisecond, Max: 200 * time.Millisecond}
	for {
		_, err := d.client.Status(ctx, &cri.StatusRequest{})
		if err == nil {
			return nil
		}
		select {
		case died := <-ended:
			ended <- died // for whoever waits for the end
			return fmt.Errorf("start containerd, which has to end the pods: %w; --kill does without", died)
		default:
		}
		if again.Wait(ctx) != nil {
			return fmt.Errorf("start containerd, which has to end the pods: no answer within %s: %w; --kill does without", runtimeLimit, err)
		}
	}
}

// pod ends one pod.
func (d *drainer) pod(ctx context.Context, p *cri.PodSandbox, containers []*cri.Container) error {
	name := p.GetMetadata().GetNamespace() + "/" + p.GetMetadata().GetName()
	begin := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, len(containers))
	for i, c := range containers {
		wg.Go(func() {
			if err := d.container(ctx, c); err != nil {
				errs[i] = fmt.Errorf("stop container %s of pod %s: %w", c.GetMetadata().GetName(), name, err)
			}
		})
	}
	wg.Wait()
	netCtx, cancel := context.WithTimeout(ctx, networkLimit)
	defer cancel()
	if _, err := d.client.StopPodSandbox(netCtx, &cri.StopPodSandboxRequest{PodSandboxId: p.GetId()}); err != nil {
		return errors.Join(append(errs, fmt.Errorf("stop pod %s: %w", name, err))...)
	}
	d.say("pod %s has ended after %s", name, time.Since(begin).Round(10*time.Millisecond))
	return errors.Join(errs...)
}

// container ends one container within its time, of which its preStop command
// takes a part.
func (d *drainer) container(ctx context.Context, c *cri.Container) error {
	grace := min(graceOf(c.GetAnnotations()), d.limit)
	deadline := time.Now().Add(grace)
	hookCtx, cancel := context.WithDeadline(ctx, deadline)
	hookErr := d.preStop(hookCtx, c)
	cancel()
	// Whole seconds; the kubelet, too, gives at least two.
	left := max(time.Until(deadline), min(grace, 2*time.Second)).Round(time.Second)
	callCtx, cancel := context.WithTimeout(ctx, left+networkLimit)
	defer cancel()
	_, err := d.client.StopContainer(callCtx, &cri.StopContainerRequest{ContainerId: c.GetId(), Timeout: int64(left.Seconds())})
	if err == nil && hookErr != nil {
		d.say("container %s of pod %s: its preStop hook: %v", c.GetMetadata().GetName(), c.GetLabels()[podSpace]+"/"+c.GetLabels()[podName], hookErr)
	}
	return err
}

func graceOf(notes map[string]string) time.Duration {
	seconds, err := strconv.Atoi(notes[graceNote])
	if err != nil || seconds < 0 {
		return defaultGrace
	}
	return time.Duration(seconds) * time.Second
}

// hook is a pod's preStop handler, as the kubelet writes it down. Requests of
// HTTP are not made from here.
type hook struct {
	Exec *struct {
		Command []string `json:"command"`
	} `json:"exec"`
	Sleep *struct {
		Seconds int64 `json:"seconds"`
	} `json:"sleep"`
	HTTPGet *struct{} `json:"httpGet"`
}

func (d *drainer) preStop(ctx context.Context, c *cri.Container) error {
	text := c.GetAnnotations()[preStopNote]
	if text == "" {
		return nil
	}
	var k hook
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	switch {
	case k.Exec != nil:
		deadline, _ := ctx.Deadline()
		_, err := d.client.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: c.GetId(), Cmd: k.Exec.Command, Timeout: int64(max(1, time.Until(deadline).Seconds()))})
		return err
	case k.Sleep != nil:
		pause.For(ctx, time.Duration(k.Sleep.Seconds)*time.Second)
		return nil
	case k.HTTPGet != nil:
		return errors.New("it is an HTTP request, which only a skiff that runs makes")
	}
	return nil
}
