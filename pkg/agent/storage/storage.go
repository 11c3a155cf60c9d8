// Package storage makes the volumes of StorageClass local-path: directories
// below one base directory, each on the node that the scheduler has chosen for
// the first pod, made and removed by that node itself and kept to their size by
// a project quota where the file system has them. It must not know what is
// kept in them, nor touch anything outside of the base. Start reading at
// Provisioner.Run; claim.go makes and grows volumes, volume.go takes them away,
// dirs.go is the disk and quota.go the kernel's side of a limit.
package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"skiff/pkg/component"
	"skiff/pkg/kube/demand"
	"skiff/pkg/kube/events"
)

const (
	name = "local-storage"
	// provisioner is the name in manifests/local-storage.yaml. It is not K3s',
	// whose provisioner a user may run beside this one.
	provisioner = "skiff.dev/local-path"
	// nodeLabel is on every volume, with the node it is on: what an agent
	// watches. pkg/server/volumes and manifests/rbac.yaml know it too.
	nodeLabel = "storage.skiff.dev/node"

	// What the volume controller and the scheduler write on claims, and what
	// they expect on volumes.
	provisionerNote   = "volume.kubernetes.io/storage-provisioner"
	nodeNote          = "volume.kubernetes.io/selected-node"
	provisionedByNote = "pv.kubernetes.io/provisioned-by"
	// dataFinalizer keeps a volume whose data has not been removed.
	dataFinalizer = "external-provisioner.volume.kubernetes.io/finalizer"

	// linger is how long to keep watching after the last volume went.
	linger = time.Minute
	// workers do one thing each; removing much data must not hold up a pod.
	workers = 2
	// Failures are tried again with these pauses; refusals are repeated, since
	// an event is forgotten after an hour.
	firstRetry, lastRetry = time.Second, 5 * time.Minute
	repeat                = 30 * time.Minute
)

// Options is what New needs.
type Options struct {
	NodeName string
	// Base is the directory that the volumes are made in.
	Base string
	// Kubeconfig is the agent's own.
	Kubeconfig string
	Logger     *slog.Logger
}

// Provisioner is the component.
type Provisioner struct{ Options }

var _ component.Component = (*Provisioner)(nil)

// New returns the component.
func New(o Options) *Provisioner { return &Provisioner{o} }

// Name implements component.Component.
func (p *Provisioner) Name() string { return name }

// Run implements component.Component. Until a claim is for this node there is
// nothing but a watch for one.
func (p *Provisioner) Run(ctx context.Context) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig)
	if err != nil {
		return fmt.Errorf("make client of %s: %w", name, err)
	}
	return demand.While(ctx, demand.Options{
		Config: cfg,
		Resources: []schema.GroupVersionResource{
			corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"),
			corev1.SchemeGroupVersion.WithResource("persistentvolumes"),
		},
		Match:  func(m *metav1.PartialObjectMetadata) bool { return p.claimed(m) || p.made(m) },
		Linger: linger,
		Logger: p.Logger,
	}, func(ctx context.Context) error { return p.serve(ctx, rest.AddUserAgent(cfg, name)) })
}

// claimed reports whether a claim is for a volume of this node.
func (p *Provisioner) claimed(o metav1.Object) bool {
	notes := o.GetAnnotations()
	return notes[provisionerNote] == provisioner && notes[nodeNote] == p.NodeName
}

// made reports whether a volume was made by this node.
func (p *Provisioner) made(o metav1.Object) bool {
	return o.GetAnnotations()[provisionedByNote] == provisioner && o.GetLabels()[nodeLabel] == p.NodeName
}

// key names a claim, or a volume if it has no namespace.
type key struct{ namespace, name string }

// worker is the provisioner while it is wanted.
type worker struct {
	*Provisioner

	client kubernetes.Interface
	events record.EventRecorder
	dirs   *dirs
	// claims and volumes are what the API has; only those of this node are
	// whole.
	claims, volumes cache.SharedIndexInformer
	queue           workqueue.TypedRateLimitingInterface[key]
}

// serve provisions until ctx ends.
func (p *Provisioner) serve(ctx context.Context, cfg *rest.Config) error {
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make client of %s: %w", name, err)
	}
	recorder, stop := events.NewRecorder(ctx, client, provisioner, p.NodeName)
	defer stop()
	return p.newWorker(client, recorder).run(ctx)
}

func (p *Provisioner) newWorker(client kubernetes.Interface, events record.EventRecorder) *worker {
	return &worker{
		Provisioner: p, client: client, events: events, dirs: &dirs{base: p.Base},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[key](firstRetry, lastRetry)),
	}
}

func (w *worker) run(ctx context.Context) error {
	all := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithTransform(w.trim))
	own := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithTransform(w.trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = nodeLabel + "=" + w.NodeName }))
	defer all.Shutdown()
	defer own.Shutdown()
	// Whatever ends this function ends the informers, and then they are
	// waited for.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w.claims, w.volumes = all.Core().V1().PersistentVolumeClaims().Informer(), own.Core().V1().PersistentVolumes().Informer()
	for _, i := range []cache.SharedIndexInformer{w.claims, w.volumes} {
		_, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: w.note, UpdateFunc: func(_, now any) { w.note(now) },
		})
		if err != nil {
			return fmt.Errorf("watch for %s: %w", name, err)
		}
	}
	all.StartWithContext(ctx)
	own.StartWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), w.claims.HasSynced, w.volumes.HasSynced) {
		w.queue.ShutDown()
		return nil
	}
	context.AfterFunc(ctx, w.queue.ShutDown)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for w.next(ctx) {
			}
		})
	}
	running.Wait()
	return nil
}

// trim keeps of other nodes' claims no more than that they exist.
func (w *worker) trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		if !w.claimed(o) {
			return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
				Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion,
			}}, nil
		}
		o.ManagedFields = nil
	case *corev1.PersistentVolume:
		o.ManagedFields = nil
	}
	return obj, nil
}

// note has an object looked at; a volume is reason to look at its claim, too.
func (w *worker) note(obj any) {
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		if w.claimed(o) {
			w.queue.Add(key{o.Namespace, o.Name})
		}
	case *corev1.PersistentVolume:
		if !w.made(o) {
			return
		}
		w.queue.Add(key{name: o.Name})
		if ref := o.Spec.ClaimRef; ref != nil {
			w.queue.Add(key{ref.Namespace, ref.Name})
		}
	}
}

// next does one thing of the queue, and reports whether there may be more.
func (w *worker) next(ctx context.Context) bool {
	k, ended := w.queue.Get()
	if ended {
		return false
	}
	defer w.queue.Done(k)
	err := w.sync(ctx, k)
	_, refused := errors.AsType[refusal](err)
	switch {
	case ctx.Err() != nil:
	case refused:
		w.queue.Forget(k)
		w.queue.AddAfter(k, repeat)
	case err != nil:
		w.Logger.Warn("a local volume is not as it should be, trying again", "namespace", k.namespace, "name", k.name, "error", err)
		w.queue.AddRateLimited(k)
	default:
		w.queue.Forget(k)
	}
	return true
}

func (w *worker) sync(ctx context.Context, k key) error {
	if k.namespace == "" {
		v, ok, err := get[*corev1.PersistentVolume](w.volumes, k.name)
		if !ok || err != nil || !w.made(v) {
			return err
		}
		return w.syncVolume(ctx, v)
	}
	c, ok, err := get[*corev1.PersistentVolumeClaim](w.claims, k.namespace+"/"+k.name)
	if !ok || err != nil || !w.claimed(c) || c.DeletionTimestamp != nil {
		return err
	}
	if c.Spec.VolumeName == "" {
		return w.provision(ctx, c)
	}
	return w.expand(ctx, c)
}

// get reads from an informer's store.
func get[T any](i cache.SharedIndexInformer, key string) (found T, ok bool, err error) {
	obj, ok, err := i.GetStore().GetByKey(key)
	if err != nil || !ok {
		return found, false, err
	}
	found, ok = obj.(T)
	return found, ok, nil
}
