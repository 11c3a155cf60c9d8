// Package bridge serves a kine backend over etcd's gRPC protocol on a unix
// socket: reads and writes by kine's own services, watches by one hub that has
// the backend's only subscription. It knows nothing about which database is
// behind the backend. Start reading at Bridge.Run, and for watches at hub.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

// What kine has no usable zero value for.
const (
	// CompactInterval is zero because the API server drives the compaction.
	CompactInterval = 0
	// CompactTimeout bounds one transaction of the compaction.
	CompactTimeout = 5 * time.Second
	// CompactMinRetain is how many revisions are never compacted.
	CompactMinRetain = 1000
	// CompactBatchSize is how many revisions one transaction compacts.
	CompactBatchSize = 1000
	// PollBatchSize is how many rows one read of new events takes.
	PollBatchSize = 500

	// etcdVersion is the etcd whose behaviour kine has; the API server asks
	// it and uses watch progress requests only from 3.5.13 on.
	etcdVersion = "3.6.13"

	// maxRequest is etcd's own limit (1.5 MiB) with room for gRPC's framing.
	maxRequest = 2 << 20
	stopGrace  = time.Second

	// connectionBuffer is what is read at once from a connection, in bytes.
	connectionBuffer = 4 << 10
)

// DriverConfig is the part of kine's configuration that all SQL drivers share.
func DriverConfig(dsn string) *drivers.Config {
	return &drivers.Config{
		DataSourceName:   dsn,
		CompactInterval:  CompactInterval,
		CompactTimeout:   CompactTimeout,
		CompactMinRetain: CompactMinRetain,
		CompactBatchSize: CompactBatchSize,
		PollBatchSize:    PollBatchSize,
	}
}

// Opener makes the backend. What it starts must end with ctx and be counted in
// wg. stop, which may be nil, is called after the last request and before ctx
// ends.
type Opener func(ctx context.Context, wg *sync.WaitGroup) (b server.Backend, stop func(context.Context) error, err error)

// Bridge is a component that opens a backend and serves it until its ctx ends.
type Bridge struct {
	Label  string // component name
	Socket string // path of the unix socket, made with mode 0600
	Open   Opener
	Logger *slog.Logger

	backend atomic.Pointer[server.Backend] // set while the socket is served
	hub     atomic.Pointer[hub]            // the same
}

// Name implements component.Component.
func (b *Bridge) Name() string { return b.Label }

// Ready implements component.Readier: a read of one key has to answer.
func (b *Bridge) Ready(ctx context.Context) error {
	backend := b.backend.Load()
	if backend == nil {
		return errors.New("the database is not open yet")
	}
	if _, _, err := (*backend).Get(ctx, server.HealthKey, 0, true); err != nil {
		return fmt.Errorf("read from the database: %w", err)
	}
	return nil
}

// Run implements component.Component.
func (b *Bridge) Run(ctx context.Context) error {
	// The backend has to outlive ctx: requests that are being answered when
	// ctx ends are finished first.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	backend, stop, err := b.Open(work, &wg)
	if err != nil {
		return err
	}
	err = b.serve(ctx, work, backend)
	if stop != nil {
		err = errors.Join(err, stop(work))
	}
	return err
}

// serve serves the backend until ctx ends. When it returns nobody uses the
// backend any more but what the backend itself has started.
func (b *Bridge) serve(ctx, work context.Context, backend server.Backend) error {
	if err := backend.Start(work); err != nil {
		return fmt.Errorf("start the datastore: %w", err)
	}
	hub, err := newHub(ctx, backend, b.Logger)
	if err != nil {
		return err
	}
	following, unfollow := context.WithCancel(work)
	var hubs sync.WaitGroup
	defer hubs.Wait()
	defer unfollow()
	hubs.Go(func() { hub.run(following) })
	listener, err := listen(ctx, b.Socket)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		// The API server opens a connection for each resource, and most are idle:
		// gRPC's own 32 KiB for each would be more than 2 MB.
		grpc.ReadBufferSize(connectionBuffer),
		grpc.ForceServerCodecV2(codec{other: encoding.GetCodecV2(proto.Name)}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
	)
	watches := &watchServer{hub: hub, stopped: ctx.Done()}
	register(srv, backend, watches)

	var serving sync.WaitGroup
	served := make(chan error, 1)
	serving.Go(func() { served <- srv.Serve(listener) })
	b.backend.Store(&backend)
	b.hub.Store(hub)
	b.Logger.Debug("datastore is served", "socket", b.Socket)

	select {
	case err = <-served:
		err = fmt.Errorf("serve the datastore on %s: %w", b.Socket, err)
	case <-ctx.Done():
		timer := time.AfterFunc(stopGrace, srv.Stop)
		srv.GracefulStop()
		timer.Stop()
	}
	srv.Stop()
	serving.Wait()
	watches.running.Wait()
	b.backend.Store(nil)
	b.hub.Store(nil)
	return err
}

// register adds etcd's services: Watch is ours, and what kvServer does of KV;
// the others are kine's.
func register(srv *grpc.Server, backend server.Backend, watches *watchServer) {
	// The interval is for kine's Watch.
	k := server.New(backend, "unix", 0, etcdVersion)
	etcdserverpb.RegisterKVServer(srv, &kvServer{KVServerBridge: k, backend: backend, hub: watches.hub})
	etcdserverpb.RegisterLeaseServer(srv, k)
	etcdserverpb.RegisterClusterServer(srv, k)
	etcdserverpb.RegisterMaintenanceServer(srv, k)
	etcdserverpb.RegisterWatchServer(srv, watches)
	h := health.NewServer()
	h.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(srv, h)
}

// listen makes the socket, replacing one that an earlier process left behind.
// The data directory's lock is what keeps two processes apart.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create directory of the datastore's socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket of the datastore: %w", err)
	}
	// A socket takes its mode from the umask, which is the process's; until
	// the chmod below nobody knows the name, and nothing accepts.
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for the datastore: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict the datastore's socket: %w", err), l.Close())
	}
	return l, nil
}
