package external_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"skiff/test/datastore/servers"
)

// TestFullDisk has the database on a disk without space. Kine says then that
// somebody else was quicker, and the API server tries again at once, for ever.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	disk, err := os.MkdirTemp("", "skiff-disk-") //nolint:usetesting // The database's user must get into it.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(disk) })
	mount := func(flags uintptr, size string) {
		t.Helper()
		uid, gid := servers.Owner()
		if err := syscall.Mount("tmpfs", disk, "tmpfs", flags, fmt.Sprintf("mode=0700,uid=%d,gid=%d,size=%s", uid, gid, size)); err != nil {
			t.Fatal(err)
		}
	}
	mount(0, "24m")
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })

	s := servers.NewPostgres(t)
	endpoint := s.Database(t)
	name := endpoint[strings.LastIndex(endpoint, "/")+1:]
	admin := s.Admin(t)
	for _, sql := range []string{"CREATE TABLESPACE small LOCATION '" + disk + "'", "CREATE DATABASE " + name + " TABLESPACE small"} {
		must(admin.ExecContext(t.Context(), sql))(t)
	}
	c := open(t, endpoint)
	ctx := within(t, 60*time.Second)
	rev := must(create(ctx, c, "/registry/key", "small"))(t)
	for i := 0; ; i++ {
		_, err := create(ctx, c, fmt.Sprintf("/registry/fill/%d", i), noise(200_000))
		if err == nil && i < 200 {
			continue
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("after %d keys the disk is full: %v", i, err)
		}
		t.Logf("after %d keys: %v", i, err)
		break
	}
	if _, _, err := update(ctx, c, "/registry/key", noise(200_000), rev); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("an update on a full disk: %v", err)
	}
	if r := must(c.Get(ctx, "/registry/key"))(t); len(r.Kvs) != 1 || r.Kvs[0].ModRevision != rev {
		t.Errorf("a read on a full disk: %v", r)
	}
	mount(syscall.MS_REMOUNT, "200m")
	took := eventually(t, 5*time.Second, func() error {
		_, ok, err := update(ctx, c, "/registry/key", noise(200_000), rev)
		if err == nil && !ok {
			t.Fatal("the key has changed although every update failed")
		}
		return err
	})
	t.Logf("written %v after there was space", took)
}

// noise is a value that cannot be compressed.
func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return string(b)
}
