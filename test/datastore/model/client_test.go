package model

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

type kind string

const (
	create  kind = "create"
	update  kind = "update"
	remove  kind = "delete"
	put     kind = "put"
	get     kind = "get"
	list    kind = "list"
	compact kind = "compact"
)

// pair is a version of a key; the zero value is that there is none.
type pair struct {
	mod, create int64
	value       string
}

func pairOf(kv *mvccpb.KeyValue) pair {
	return pair{kv.ModRevision, kv.CreateRevision, string(kv.Value)}
}

// op is one request and its answer.
type op struct {
	client       int
	kind         kind
	key          string
	end          string // of a list
	value        string
	expect       int64 // revision of the key that an update or a delete asks for
	at           int64 // revision to read at, or to compact; 0 for now
	limit        int64
	keysOnly     bool
	countOnly    bool
	call, finish int64

	revision  int64 // of the header
	applied   bool
	found     pair // what a get, or the else branch, returned
	hasFound  bool
	kvs       []*mvccpb.KeyValue
	more      bool
	count     int64
	compacted bool // the revision is gone
	// compactedBefore had been compacted when the request was made.
	compactedBefore int64
}

// client makes requests one after the other.
type client struct {
	id        int
	kv        *clientv3.Client
	rand      *rand.Rand
	seen      func() int64 // how far the watch that writes the history is
	compacted *compaction
	keys      []string

	ops       []op
	known     map[string]int64 // key to the revision last heard of
	revisions []int64          // that have been
	rest      *op              // the list to continue
}

func (c *client) work(ctx context.Context, t *testing.T) {
	for n := 0; ctx.Err() == nil; n++ {
		o := op{client: c.id, key: c.keys[c.rand.IntN(len(c.keys))], compactedBefore: c.compacted.acked()}
		switch p := c.rand.IntN(100); {
		case p < 20:
			o.kind, o.value = create, value(c.rand, c.id, n)
		case p < 45:
			o.kind, o.value, o.expect = update, value(c.rand, c.id, n), c.known[o.key]
		case p < 60:
			o.kind, o.expect = remove, c.known[o.key]
		case p < 65:
			o.kind, o.value = put, value(c.rand, c.id, n)
		case p < 80:
			o.kind = get
			if p < 70 {
				o.at = c.past()
			}
		case p < 98 || c.id != 0:
			c.listing(&o)
		default:
			o.kind, o.at = compact, c.seen()-int64(c.rand.IntN(50))
		}
		if (o.kind == update || o.kind == remove) && o.expect == 0 {
			o.kind = get
		}
		o.call = time.Now().UnixNano()
		// The request itself is not cut off: its outcome would be unknown.
		err := c.do(t.Context(), &o)
		o.finish = time.Now().UnixNano()
		if err != nil {
			t.Errorf("%s %q at %d: %v", o.kind, o.key, o.at, err)
			return
		}
		c.ops = append(c.ops, o)
		c.learn(o)
	}
}

// past is some revision that has been, or now.
func (c *client) past() int64 {
	if c.rand.IntN(4) == 0 {
		return 0
	}
	return c.revisions[len(c.revisions)-1-c.rand.IntN(min(len(c.revisions), 200))]
}

// listing makes up a list, or continues one.
func (c *client) listing(o *op) {
	if c.rest != nil {
		*o = *c.rest
		o.compactedBefore = c.compacted.acked()
		c.rest = nil
		return
	}
	o.kind, o.at, o.limit = list, c.past(), int64(c.rand.IntN(3)*c.rand.IntN(8))
	o.keysOnly, o.countOnly = c.rand.IntN(4) == 0, c.rand.IntN(6) == 0
	switch c.rand.IntN(5) {
	case 0:
		o.key, o.end = "/m/k/", "/m/k0"
	case 1:
		o.end = c.keys[c.rand.IntN(len(c.keys))] // It may be empty.
	case 2:
		o.key, o.end = "/m/", "\x00"
	default:
		o.key, o.end = "/m/", "/m0"
	}
}

func (c *client) learn(o op) {
	switch {
	case o.applied && o.kind != remove:
		c.known[o.key] = o.revision
	case o.hasFound:
		c.known[o.key] = o.found.mod
	}
	if o.revision > c.revisions[len(c.revisions)-1] {
		c.revisions = append(c.revisions, o.revision)
	}
	// As the API server's pages: from behind the last key, at the revision of
	// the first page.
	if o.kind == list && o.more && o.limit > 0 && len(o.kvs) > 0 && !o.compacted {
		next := op{client: o.client, kind: list, key: string(o.kvs[len(o.kvs)-1].Key) + "\x00", end: o.end, limit: o.limit, keysOnly: o.keysOnly, at: o.at}
		if next.at == 0 {
			next.at = o.revision
		}
		c.rest = &next
	}
}

func (c *client) do(ctx context.Context, o *op) error {
	switch o.kind {
	case create:
		return c.txn(ctx, o, 0, clientv3.OpPut(o.key, o.value))
	case update:
		return c.txn(ctx, o, o.expect, clientv3.OpPut(o.key, o.value), clientv3.OpGet(o.key))
	case remove:
		return c.txn(ctx, o, o.expect, clientv3.OpDelete(o.key), clientv3.OpGet(o.key))
	case put:
		r, err := c.kv.Put(ctx, o.key, o.value, clientv3.WithPrevKV())
		if err != nil {
			return err
		}
		o.revision, o.applied = r.Header.Revision, true
		if r.PrevKv != nil {
			o.found, o.hasFound = pairOf(r.PrevKv), true
		}
		return nil
	case compact:
		return c.compact(ctx, o)
	default:
		return c.read(ctx, o)
	}
}

// txn is a transaction as the API server makes them.
func (c *client) txn(ctx context.Context, o *op, expect int64, then clientv3.Op, otherwise ...clientv3.Op) error {
	r, err := c.kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(o.key), "=", expect)).Then(then).Else(otherwise...).Commit()
	if err != nil {
		return err
	}
	o.revision, o.applied = r.Header.Revision, r.Succeeded
	if r.Succeeded || len(otherwise) == 0 {
		return nil
	}
	if len(r.Responses) != 1 || r.Responses[0].GetResponseRange() == nil {
		return errors.New("no range in the answer to a failed transaction")
	}
	if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		o.found, o.hasFound = pairOf(kvs[0]), true
	}
	return nil
}

func (c *client) compact(ctx context.Context, o *op) error {
	if o.at <= o.compactedBefore {
		o.kind, o.at = get, 0
		return c.read(ctx, o)
	}
	c.compacted.ask(o.at)
	r, err := c.kv.Compact(ctx, o.at)
	if err != nil {
		return err
	}
	c.compacted.end(o.at)
	o.revision = r.Header.Revision
	return nil
}

func (c *client) read(ctx context.Context, o *op) error {
	options := []clientv3.OpOption{clientv3.WithRev(o.at), clientv3.WithLimit(o.limit)}
	if o.kind == list {
		options = append(options, clientv3.WithRange(o.end))
	}
	if o.keysOnly {
		options = append(options, clientv3.WithKeysOnly())
	}
	if o.countOnly {
		options = append(options, clientv3.WithCountOnly())
	}
	r, err := c.kv.Get(ctx, o.key, options...)
	if errors.Is(err, rpctypes.ErrCompacted) && o.at > 0 && o.at < c.compacted.mayBe() {
		o.compacted = true
		return nil
	}
	if err != nil {
		return err
	}
	o.revision, o.kvs, o.more, o.count = r.Header.Revision, r.Kvs, r.More, r.Count
	if o.kind == get && len(r.Kvs) == 1 {
		o.found, o.hasFound = pairOf(r.Kvs[0]), true
	}
	return nil
}
