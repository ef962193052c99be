package proximahttp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// outgoing hands the body of a request to each of its attempts.
type outgoing interface {
	// attach gives the copy of the request for the next attempt a body that starts at
	// the beginning.
	attach(out *http.Request) error
	// replayable reports whether attach can do that once more.
	replayable() bool
	// faulty reports whether reading the body failed, which no instance causes.
	faulty() bool
	// again returns a body for a copy of the request beside its attempts. It returns false if
	// the whole body is not there, without waiting.
	again() (io.ReadCloser, bool)
	// finish is called when no attempt follows. The caller's body is closed then, or by
	// the attempt that still reads it, exactly once.
	finish()
}

// newOutgoing keeps up to limit bytes of a body without GetBody.
func newOutgoing(req *http.Request, limit int64) outgoing {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return noBody{}
	case req.GetBody != nil:
		return &repeated{body: req.Body, getBody: req.GetBody}
	default:
		return &kept{source: req.Body, length: req.ContentLength, limit: limit}
	}
}

type noBody struct{}

func (noBody) attach(*http.Request) error   { return nil }
func (noBody) replayable() bool             { return true }
func (noBody) again() (io.ReadCloser, bool) { return http.NoBody, true }
func (noBody) faulty() bool                 { return false }
func (noBody) finish()                      {}

// repeated is a body that the caller's GetBody makes again. It is passed on as it is,
// because net/http sends the types it knows in one packet with the head.
type repeated struct {
	body    io.ReadCloser // nil once an attempt has it
	getBody func() (io.ReadCloser, error)
	failed  bool
}

func (b *repeated) attach(out *http.Request) error {
	if b.body != nil {
		out.Body, b.body = b.body, nil
		return nil
	}
	again, err := b.getBody()
	if err != nil {
		b.failed = true
		return fmt.Errorf("get the request's body again: %w", err)
	}
	out.Body = again
	return nil
}

func (b *repeated) replayable() bool { return !b.failed }
func (b *repeated) faulty() bool     { return b.failed }

func (b *repeated) again() (io.ReadCloser, bool) {
	body, err := b.getBody()
	return body, err == nil
}

func (b *repeated) finish() {
	if b.body != nil {
		_ = b.body.Close() // as net/http: it ignores this error too
		b.body = nil
	}
}

// kept is a body that can be read only once. What has been read of it is kept
// for the next attempt, unless that is more than limit.
type kept struct {
	source io.ReadCloser
	length int64 // announced; not above 0 when unknown
	limit  int64

	lost   atomic.Bool // more was read than is kept
	failed atomic.Bool

	// reading makes readers wait for one another: net/http may still be reading for an
	// attempt that has failed. What that reads is kept, too.
	reading sync.Mutex
	data    []byte // nil when lost
	read    int64  // of source
	end     error  // of source

	mu       sync.Mutex // guards the rest
	current  *part
	finished bool
	closed   bool
}

var errLost = errors.New("too much of the request's body was read to send it again")

func (b *kept) attach(out *http.Request) error {
	p, err := b.open()
	if err != nil {
		return err
	}
	out.Body = p
	out.GetBody = b.open // net/http sends again when a kept-alive connection was closed
	return nil
}

// open starts a new reader and ends the one before.
func (b *kept) open() (io.ReadCloser, error) {
	if b.lost.Load() {
		return nil, errLost
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current != nil {
		b.current.closed.Store(true)
	}
	b.current = &part{body: b}
	return b.current, nil
}

func (b *kept) replayable() bool { return !b.lost.Load() && !b.failed.Load() }
func (b *kept) faulty() bool     { return b.failed.Load() }

func (b *kept) again() (io.ReadCloser, bool) {
	if !b.reading.TryLock() { // an attempt reads
		return nil, false
	}
	defer b.reading.Unlock()
	if whole := b.end == io.EOF || b.length > 0 && b.read == b.length; !whole || !b.replayable() { //nolint:errorlint // readers return EOF itself
		return nil, false
	}
	return io.NopCloser(bytes.NewReader(b.data)), true
}

func (b *kept) finish() {
	b.mu.Lock()
	b.finished = true
	b.mu.Unlock()
	b.closeSource()
}

// closeSource closes the caller's body when no attempt will read it any more.
func (b *kept) closeSource() {
	b.mu.Lock()
	due := b.finished && !b.closed && (b.current == nil || b.current.closed.Load())
	b.closed = b.closed || due
	b.mu.Unlock()
	if due {
		_ = b.source.Close()
	}
}

// part is a kept body, as one attempt reads it.
type part struct {
	body   *kept
	off    int64
	closed atomic.Bool
}

func (p *part) Read(dst []byte) (int, error) {
	b := p.body
	b.reading.Lock()
	defer b.reading.Unlock()
	switch {
	case p.closed.Load():
		return 0, http.ErrBodyReadAfterClose
	case p.off < int64(len(b.data)):
		n := copy(dst, b.data[p.off:])
		p.off += int64(n)
		return n, nil
	case p.off < b.read: // lost since this attempt began
		b.failed.Store(true)
		return 0, errLost
	case b.end != nil:
		return 0, b.end
	}
	n, err := b.source.Read(dst)
	p.off += int64(n)
	b.keep(dst[:n], err)
	return n, err
}

// keep is called with reading locked.
func (b *kept) keep(data []byte, end error) {
	b.read += int64(len(data))
	switch {
	case b.read <= b.limit:
		b.data = append(b.data, data...)
	case len(data) > 0:
		b.lost.Store(true)
		b.data = nil
	}
	b.end = end
	complete := end == io.EOF //nolint:errorlint // readers return EOF itself; a wrapped one is an error
	wrongLength := b.length > 0 && (b.read > b.length || complete && b.read < b.length)
	if end != nil && !complete || wrongLength {
		b.failed.Store(true)
	}
}

func (p *part) Close() error {
	p.closed.Store(true)
	p.body.closeSource()
	return nil
}
