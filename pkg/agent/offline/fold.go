package offline

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"skiff/pkg/agent/offline/wire"
)

// fold has a server's answer taken in while its client reads it.
func (c *Cache) fold(q *question, resp *http.Response, b *body) {
	good := resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusMultipleChoices
	protobuf := strings.HasPrefix(resp.Header.Get("Content-Type"), wire.ContentType)
	switch {
	case q.isToken() || q.isReview():
		if good {
			c.whole(b, func(body []byte) { c.remember(q, resp, body) })
		}
	case !q.kept || q.Method == http.MethodDelete:
	case resp.StatusCode == http.StatusNotFound && q.Method == http.MethodGet && q.name != "":
		c.mu.Lock()
		defer c.mu.Unlock()
		if o := c.state.object(q.table(), key(q.namespace, q.name)); o != nil && o.streams == 0 {
			c.state.drop(c.now(), q.table(), key(q.namespace, q.name))
			c.wake()
		}
	case !good || !protobuf:
	case q.watch && q.name == "":
		c.foldWatch(q, b)
	case q.Method == http.MethodGet && q.name == "":
		c.foldList(q, b)
	case q.name != "" && (q.sub == "" || q.sub == "status"), q.Method == http.MethodPost && q.name == "":
		c.whole(b, func(body []byte) { c.foldOne(q, body) })
	}
}

// whole calls fn with the whole body, if it comes to its end.
func (c *Cache) whole(b *body, fn func([]byte)) {
	var buf bytes.Buffer
	b.see = func(p []byte) {
		if buf.Len()+len(p) <= wire.MaxObject {
			buf.Write(p)
		}
	}
	// client-go reads up to the end of a body; the decision does not hang on it.
	b.finish = func(whole bool) {
		if whole {
			fn(buf.Bytes())
		}
	}
}

// foldOne takes in a single object: as it was read, or as it is after a write.
func (c *Cache) foldOne(q *question, body []byte) {
	object, err := wire.Unwrap(body)
	if err != nil {
		return
	}
	m, err := wire.ParseMeta(object)
	if err != nil || m.Name == "" {
		return
	}
	pin := rules[q.resource].pin
	c.mu.Lock()
	defer c.mu.Unlock()
	if !pin && c.state.object(q.table(), key(m.Namespace, m.Name)) == nil {
		return
	}
	c.state.put(c.now(), q.table(), m, object, pin, false)
	c.wake()
}

// foldList takes in a list, page by page.
func (c *Cache) foldList(q *question, b *body) {
	name := q.stream()
	staged := map[string]struct{}{}
	list := &wire.List{}
	list.Item = func(object []byte) error {
		m, err := wire.ParseMeta(object)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.refused[name] {
			c.state.stage(c.now(), q.table(), m, object, staged)
			c.relieve(name)
		}
		return nil
	}
	b.see = func(p []byte) { _, _ = list.Write(p) }
	b.finish = func(bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		st := c.state.open(name, q.table())
		st.used = c.now()
		if q.paged {
			maps.Copy(staged, st.pages)
			st.pages = nil
		}
		switch {
		case !list.Complete() || c.refused[name]:
			c.state.unstage(c.now(), q.table(), staged)
		case list.Continue != "":
			c.state.unstage(c.now(), q.table(), st.pages)
			st.pages = staged
		default:
			c.state.replace(c.now(), name, st, staged, list.Version)
		}
		c.wake()
	}
}

// foldWatch follows a watch. One that begins with a list has bookmarks, which
// it needs once; with the first that it does not need it ends, and its client goes
// on from there by a watch without (pkg/kube/economy).
func (c *Cache) foldWatch(q *question, b *body) {
	name := q.stream()
	if c.isRefused(name) {
		return
	}
	var staged map[string]struct{} // the initial events, until they have all come
	if q.initial {
		staged = map[string]struct{}{}
	}
	c.mu.Lock()
	st := c.state.open(name, q.table())
	st.watched++
	st.used = c.now()
	c.mu.Unlock()
	marked := false
	events := &wire.Events{Event: func(kind string, object []byte) error {
		m, err := wire.ParseMeta(object)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.state.streams[name] != st: // Forgotten meanwhile.
			c.state.unstage(c.now(), q.table(), staged)
			staged = nil
			return nil
		case staged == nil:
			marked = marked || q.initial && kind == "BOOKMARK"
			c.state.event(c.now(), name, st, kind, m, object)
		case kind == "ADDED":
			c.state.stage(c.now(), q.table(), m, object, staged)
		case m.InitialEnd:
			c.state.replace(c.now(), name, st, staged, m.Version)
			staged = nil
		}
		c.relieve(name)
		c.wake()
		return nil
	}}
	b.see = func(p []byte) {
		_, _ = events.Write(p)
		b.enough = marked && events.Between()
	}
	b.finish = func(bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		st.watched--
		st.used = c.now()
		c.state.unstage(c.now(), q.table(), staged)
	}
}

func (c *Cache) isRefused(stream string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused[stream]
}

// relieve writes when much waits in memory, and sees to it that not more is kept
// than may be. current is the stream that grows. The caller holds mu.
func (c *Cache) relieve(current string) {
	if c.state.waiting > flushAt {
		c.save()
	}
	if c.state.live <= c.o.Limit {
		return
	}
	// Of all that is not this node's own the largest goes.
	own, victim, most := c.ownPods(), current, int64(0)
	for name, st := range c.state.streams {
		var size int64
		for k := range st.members {
			if o := c.state.object(st.table, k); o != nil {
				size += int64(o.size)
			}
		}
		if size > most && name != own {
			victim, most = name, size
		}
	}
	if victim == own || c.refused[victim] {
		return
	}
	c.refused[victim] = true
	c.state.forget(c.now(), victim)
	c.o.Logger.Warn("a list is too long to be kept for a start without a server", "list", victim, "limit", c.o.Limit)
	c.o.Notes.Set(noteSize, fmt.Sprintf("without a server this node would start with part of its functions only: there is more than %d MiB to keep; left out: %s", c.o.Limit>>20, victim))
}

// save writes what has changed; if it cannot be, later again. The caller holds mu.
func (c *Cache) save() {
	err := c.flush()
	if err == nil {
		if c.failing {
			c.o.Logger.Info("what the node needs without a server can be written again")
			c.o.Notes.Clear(noteWrite)
		}
		c.failing = false
		return
	}
	c.state.due = c.now().Add(writeAgain)
	if !c.failing {
		c.failing = true
		c.o.Logger.Error("what the node needs without a server cannot be written", "error", err)
		c.o.Notes.Set(noteWrite, "this node could not start without a server: what it needs for that cannot be written: "+err.Error())
	}
}

const writeAgain = time.Minute
