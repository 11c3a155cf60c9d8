package pki

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestRenewer runs for weeks: the certificates are replaced on the day, the
// kubeconfig with them, and a damaged file within the hour.
func TestRenewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.Store = NewStore(b.Dir, time.Now, slog.New(slog.DiscardHandler))
		b.Lifetime = 60 * 24 * time.Hour
		b.Floor = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC) // The bubble's clock begins in 2000.
		config := filepath.Join(t.TempDir(), "etc", "skiff.yaml")
		var changed atomic.Int32
		r := &Renewer{
			Store: b.Store, Tree: Tree, Facts: func() Facts { return testFacts },
			Kubeconfigs: []KubeconfigFile{{Name: ClientAdmin, Path: config, Server: "https://127.0.0.1:6443"}},
			Changed:     func(Report) { changed.Add(1) }, Logger: slog.New(slog.DiscardHandler),
		}
		if _, err := r.Ensure(); err != nil {
			t.Fatal(err)
		}
		first, kube := b.read(ClientAdmin), b.file(config)
		conf, err := b.ServingCertificate(ServingAPI)(nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = r.Run(t.Context()) }()

		time.Sleep(time.Until(b.RenewAt(first)) - 2*time.Minute)
		synctest.Wait()
		if changed.Load() != 0 || !bytes.Equal(kube, b.file(config)) {
			t.Error("renewed too early")
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if changed.Load() != 1 || b.read(ClientAdmin).Equal(first) || bytes.Equal(kube, b.file(config)) {
			t.Errorf("not renewed on the day (%d changes)", changed.Load())
		}
		if now, _ := b.ServingCertificate(ServingAPI)(nil); now.Leaf.Equal(conf.Leaf) {
			t.Error("the old certificate is still served")
		}
		b.put(b.CertFile(ClientAPI), nil)
		time.Sleep(readEvery + time.Minute)
		synctest.Wait()
		if changed.Load() != 2 || len(b.file(b.CertFile(ClientAPI))) == 0 {
			t.Errorf("damage was not healed (%d changes)", changed.Load())
		}
	})
}

// TestRenewerSeesTheClockJump sets the wall clock without time passing.
func TestRenewerSeesTheClockJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var jump atomic.Int64
		b.Store = NewStore(b.Dir, func() time.Time { return day.Add(time.Duration(jump.Load())) }, slog.New(slog.DiscardHandler))
		r := &Renewer{Store: b.Store, Tree: Tree, Facts: func() Facts { return testFacts }, Logger: slog.New(slog.DiscardHandler)}
		if _, err := r.Ensure(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = r.Run(t.Context()) }()
		for _, by := range []time.Duration{3 * 365 * 24 * time.Hour, -50 * 365 * 24 * time.Hour, 0} {
			jump.Store(int64(by))
			time.Sleep(2 * lookEvery)
			synctest.Wait()
			b.now = day.Add(by)
			b.verify()
		}
	})
}

func TestKubeconfigIsLeftAlone(t *testing.T) {
	b := newBench(t)
	b.ensure(testFacts)
	k := KubeconfigFile{Name: ClientAdmin, Path: filepath.Join(t.TempDir(), "a"), Mode: 0o640, Server: "https://127.0.0.1:6443"}
	for i, want := range []bool{true, false} {
		got, err := b.WriteKubeconfig(k)
		if err != nil || got != want {
			t.Errorf("round %d: written %v, %v", i, got, err)
		}
	}
	info, err := os.Stat(k.Path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
