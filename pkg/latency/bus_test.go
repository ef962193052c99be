package latency_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

var errNobody = errors.New("nobody answers")

// bus carries messages between the probers of a bubble. What is published
// arrives at once and in order, on a goroutine of each subscription's own. The
// last message of each subject is kept for two minutes.
type bus struct {
	mu        sync.Mutex
	last      map[string]message
	listeners map[string]map[*listener]bool // by the subject without its last token
	answers   map[string]func([]byte) []byte
	published []message // only counted when it is not kept
	keep      bool
	count     int
	requests  int
	work      sync.WaitGroup
}

type message struct {
	subject string
	data    []byte
	at      time.Time
}

type listener struct {
	handle func(subject string, data []byte, age time.Duration)
	wake   chan struct{}

	mu    sync.Mutex
	queue []message
	ended bool
}

// newBus makes a bus whose subscriptions must have ended when the test does.
func newBus(tb testing.TB) *bus {
	b := &bus{last: make(map[string]message), listeners: make(map[string]map[*listener]bool), answers: make(map[string]func([]byte) []byte)}
	tb.Cleanup(func() {
		if n := b.subscriptions(); n > 0 {
			tb.Errorf("%d subscriptions were not ended", n)
		}
		b.work.Wait()
	})
	return b
}

// group is the subject without its last token.
func group(subject string) string { return subject[:strings.LastIndexByte(subject, '.')+1] }

func (b *bus) Publish(subject string, data []byte) error {
	m := message{subject, bytes.Clone(data), time.Now()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last[subject] = m
	b.count++
	if b.keep {
		b.published = append(b.published, m)
	}
	for l := range b.listeners[group(subject)] {
		l.put(m)
	}
	return nil
}

func (b *bus) Subscribe(ctx context.Context, pattern string, handle func(subject string, data []byte, age time.Duration)) (stop func(), err error) {
	prefix, ok := strings.CutSuffix(pattern, "*")
	if !ok {
		return nil, errors.New("want a pattern")
	}
	l := &listener{handle: handle, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	for subject, m := range b.last {
		if group(subject) == prefix && time.Since(m.at) < 2*time.Minute {
			l.queue = append(l.queue, m)
		}
	}
	if b.listeners[prefix] == nil {
		b.listeners[prefix] = make(map[*listener]bool)
	}
	b.listeners[prefix][l] = true
	b.mu.Unlock()

	caughtUp := make(chan struct{})
	b.work.Go(func() { l.deliver(caughtUp) })
	select {
	case <-caughtUp:
	case <-ctx.Done():
	}
	return func() {
		b.mu.Lock()
		delete(b.listeners[prefix], l)
		b.mu.Unlock()
		l.mu.Lock()
		l.ended = true
		l.mu.Unlock()
		l.look()
	}, nil
}

func (b *bus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	b.mu.Lock()
	answer := b.answers[subject]
	b.requests++
	b.mu.Unlock()
	if answer == nil {
		return nil, errNobody
	}
	return answer(data), nil
}

// answer lets f answer requests on a subject.
func (b *bus) answer(subject string, f func([]byte) []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[subject] = f
}

func (b *bus) subscriptions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, ls := range b.listeners {
		n += len(ls)
	}
	return n
}

// sent is how many messages were published and requests made.
func (b *bus) sent() (messages, requests int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count, b.requests
}

// latest is the last message of a subject, nil if there is none.
func (b *bus) latest(subject string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last[subject].data
}

func (l *listener) put(m message) {
	l.mu.Lock()
	l.queue = append(l.queue, m)
	l.mu.Unlock()
	l.look()
}

func (l *listener) look() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *listener) deliver(caughtUp chan struct{}) {
	for first := true; ; first = false {
		l.mu.Lock()
		queue, ended := l.queue, l.ended
		l.queue = nil
		l.mu.Unlock()
		if ended {
			return
		}
		for _, m := range queue {
			l.handle(m.subject, m.data, time.Since(m.at))
		}
		if first {
			close(caughtUp)
		}
		<-l.wake
	}
}

// cable connects one prober to the bus, until it is cut.
type cable struct {
	latency.Bus
	mu  sync.Mutex
	cut bool
}

func (c *cable) Publish(subject string, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return errNobody
	}
	return c.Bus.Publish(subject, data)
}

// pull makes what is on it vanish for the others.
func (c *cable) pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
}
