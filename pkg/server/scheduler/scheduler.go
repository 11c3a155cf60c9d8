// Package scheduler runs kube-scheduler inside the process, with typed options
// and as the API server's own identity. It has no port of its own. It must not
// know what else runs here. Start reading at Scheduler.Run.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	schedconfig "k8s.io/kubernetes/cmd/kube-scheduler/app/config"
	schedoptions "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/pkg/scheduler/profile"

	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/kube"
)

const (
	name = "kube-scheduler"
	// extraArgs is the option that users pass arguments through with.
	extraArgs = "kube-scheduler-arg"
)

// Options is what New needs.
type Options struct {
	Config config.Completed
	// Loopback is the API server's configuration for its own clients; it is
	// called when Run starts.
	Loopback func() *rest.Config
	Logger   *slog.Logger
}

// Scheduler is kube-scheduler as a component.
type Scheduler struct {
	Options

	built atomic.Pointer[scheduler.Scheduler]
}

var (
	_ component.Component = (*Scheduler)(nil)
	_ component.Readier   = (*Scheduler)(nil)
)

// New returns the component.
func New(o Options) *Scheduler { return &Scheduler{Options: o} }

// Name implements component.Component.
func (s *Scheduler) Name() string { return name }

// Ready implements component.Readier: the caches have to be filled before the
// first pod is placed.
func (s *Scheduler) Ready(context.Context) error {
	built := s.built.Load()
	if built == nil {
		return errors.New("still being put together")
	}
	// With a context that has ended, the wait looks once.
	once, cancel := context.WithCancel(context.Background())
	cancel()
	if built.WaitForHandlersSync(once) != nil {
		return errors.New("waiting for the caches of nodes, pods and volumes to fill")
	}
	return nil
}

// Run implements component.Component. The scheduler cannot be started twice in
// one process.
func (s *Scheduler) Run(ctx context.Context) error {
	cfg, err := s.configure(ctx)
	if err != nil {
		return err
	}
	cc := cfg.Complete()
	sched, err := build(ctx, cc)
	if err != nil {
		return err
	}
	s.built.Store(sched)
	// Run returns an error also when it was asked to stop.
	if err := app.Run(ctx, &cc, sched); err != nil && ctx.Err() == nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	return nil
}

// options returns the scheduler's options: upstream's defaults, what skiff
// needs otherwise, and what the user passes through.
func (s *Scheduler) options(loopback *rest.Config) (*schedoptions.Options, error) {
	o := schedoptions.NewOptions()
	// Without this, upstream looks for a service account of its own pod.
	o.Master = loopback.Host
	// Health is what Ready says, metrics are those of the process.
	o.SecureServing.BindPort = 0
	defaults, err := latest.Default()
	if err != nil {
		return nil, fmt.Errorf("make options of %s: %w", name, err)
	}
	defaults.EnableProfiling = false
	o.ComponentConfig = defaults
	if err := kube.ApplyArgs(extraArgs, *o.Flags, s.Config.Extra.Scheduler); err != nil {
		return nil, err
	}
	if errs := o.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("validate options of %s: %w", name, utilerrors.NewAggregate(errs))
	}
	return o, nil
}

// configure makes the scheduler's configuration with clients of the loopback
// identity; upstream can only make them from a file.
func (s *Scheduler) configure(ctx context.Context) (*schedconfig.Config, error) {
	loopback := s.Loopback()
	if loopback == nil {
		return nil, errors.New("start " + name + ": kube-apiserver has not been built yet")
	}
	o, err := s.options(loopback)
	if err != nil {
		return nil, err
	}
	cfg, err := o.Config(ctx)
	if err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	// One server has no competitor; several will hold a lease of skiff's own.
	cfg.LeaderElection = nil
	cfg.ComponentConfig.LeaderElection.LeaderElect = false

	cfg.KubeConfig = rest.AddUserAgent(loopback, name)
	client, err := kubernetes.NewForConfig(cfg.KubeConfig)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", name, err)
	}
	dyn, err := dynamic.NewForConfig(cfg.KubeConfig)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", name, err)
	}
	cfg.Client = client
	cfg.EventBroadcaster.Shutdown()
	cfg.EventBroadcaster = events.NewEventBroadcasterAdapterWithContext(ctx, client)
	cfg.InformerFactory = scheduler.NewInformerFactory(client, 0)
	cfg.DynInformerFactory = dynamicinformer.NewFilteredDynamicSharedInformerFactory(dyn, 0, metav1.NamespaceAll, nil)
	return cfg, nil
}

// build makes the scheduler that cc describes.
func build(ctx context.Context, cc schedconfig.CompletedConfig) (*scheduler.Scheduler, error) {
	c := cc.ComponentConfig
	recorders := profile.RecorderFactory(func(name string) events.EventRecorderLogger { return cc.EventBroadcaster.NewRecorder(name) })
	sched, err := scheduler.New(ctx, cc.Client, cc.InformerFactory, cc.DynInformerFactory, recorders,
		scheduler.WithComponentConfigVersion(c.APIVersion),
		scheduler.WithKubeConfig(cc.KubeConfig),
		scheduler.WithProfiles(c.Profiles...),
		scheduler.WithPercentageOfNodesToScore(c.PercentageOfNodesToScore),
		scheduler.WithPodInitialBackoffSeconds(c.PodInitialBackoffSeconds),
		scheduler.WithPodMaxBackoffSeconds(c.PodMaxBackoffSeconds),
		scheduler.WithPodMaxInUnschedulablePodsDuration(cc.PodMaxInUnschedulablePodsDuration),
		scheduler.WithExtenders(c.Extenders...),
		scheduler.WithParallelism(c.Parallelism),
	)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	return sched, nil
}
