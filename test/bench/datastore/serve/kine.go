package main

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// kine serves a SQLite database by upstream's code alone. The figures are the
// defaults of kine's own command, which K3s leaves as they are: the API server
// drives the compaction, and the database is synced at checkpoints only.
func kine(ctx context.Context, dir, socket string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create database directory: %w", err)
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait() // the database is closed, and with that checkpointed
	defer cancel()
	_, backend, err := sqlite.New(work, &wg, &drivers.Config{
		DataSourceName:       filepath.Join(dir, "state.db") + "?" + sqlite.DefaultParams,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 20, MaxIdleTime: 2 * time.Minute},
		CompactTimeout:       5 * time.Second,
		CompactMinRetain:     1000,
		CompactBatchSize:     1000,
		PollBatchSize:        500,
	})
	if err != nil {
		return fmt.Errorf("open kine's database: %w", err)
	}
	if err := backend.Start(work); err != nil {
		return fmt.Errorf("start kine: %w", err)
	}
	srv := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.MaxRecvMsgSize(2<<20),
		grpc.MaxSendMsgSize(math.MaxInt32),
	)
	server.New(backend, "unix", 5*time.Second, "3.6.13").Register(srv)
	network := "unix"
	if !strings.HasPrefix(socket, "/") {
		network = "tcp"
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, socket)
	if err != nil {
		return fmt.Errorf("listen for kine: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(2*time.Second, srv.Stop)
		defer timer.Stop()
		srv.GracefulStop()
	})
	defer stop()
	if err := srv.Serve(l); err != nil {
		return fmt.Errorf("serve kine: %w", err)
	}
	srv.Stop()
	return nil
}
