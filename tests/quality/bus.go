package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// retention is how long the last message of a subject is kept for later
// subscribers.
const retention = 2 * time.Minute

// bus carries messages between the processes of a world, with the subjects of
// NATS. What is published arrives at once, on a goroutine of each
// subscription's own and in order; the publisher hears its own messages too.
type bus struct {
	work sync.WaitGroup

	mu       sync.Mutex
	root     branch
	retained map[string]message
	sequence int
	messages int // published
	bytes    int
}

type message struct {
	subject  string
	data     []byte
	at       time.Time
	sequence int
}

// branch is what is subscribed to behind the same leading tokens of a subject.
type branch struct {
	next map[string]*branch // by token; "*" is any
	here []*subscription    // that end here
	rest []*subscription    // that go on with ">"
}

type subscription struct {
	handle func(subject string, data []byte, age time.Duration)
	wake   chan struct{}

	mu    sync.Mutex
	queue []message
	ended bool
}

var errSubject = errors.New("want tokens joined by dots; wildcards (* and a last >) only to subscribe")

func newBus() *bus { return &bus{retained: make(map[string]message)} }

// Publish sends a copy of data.
func (b *bus) Publish(subject string, data []byte) error {
	tokens := strings.Split(subject, ".")
	if slices.ContainsFunc(tokens, func(t string) bool { return t == "" || t == "*" || t == ">" }) {
		return errSubject
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sequence++
	b.messages++
	b.bytes += len(data)
	m := message{subject, bytes.Clone(data), time.Now(), b.sequence}
	b.retained[subject] = m
	b.root.match(tokens, func(s *subscription) { s.put(m) })
	return nil
}

// Subscribe returns after handle was called with the retained messages, and
// the goroutine that calls it goes on until unsubscribe.
func (b *bus) Subscribe(ctx context.Context, subject string, handle func(subject string, data []byte, age time.Duration)) (unsubscribe func(), err error) {
	tokens := strings.Split(subject, ".")
	for i, t := range tokens {
		if t == "" || t == ">" && i < len(tokens)-1 {
			return nil, errSubject
		}
	}
	s := &subscription{handle: handle, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	s.queue = b.retainedLocked(tokens)
	b.root.add(tokens, s)
	b.mu.Unlock()

	caughtUp := make(chan struct{})
	b.work.Go(func() { s.deliver(caughtUp) })
	select {
	case <-caughtUp:
	case <-ctx.Done():
	}
	return func() {
		b.mu.Lock()
		b.root.remove(tokens, s)
		b.mu.Unlock()
		s.end()
	}, nil
}

// retainedLocked are the retained messages of a subject, in the order in which
// they were published.
func (b *bus) retainedLocked(tokens []string) []message {
	var wanted branch
	wanted.add(tokens, nil)
	var all []message
	for subject, m := range b.retained {
		if time.Since(m.at) >= retention {
			delete(b.retained, subject)
			continue
		}
		wanted.match(strings.Split(subject, "."), func(*subscription) { all = append(all, m) })
	}
	slices.SortFunc(all, func(a, b message) int { return cmp.Compare(a.sequence, b.sequence) })
	return all
}

// published says how many messages there were, and their bytes.
func (b *bus) published() (messages, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.messages, b.bytes
}

// wait waits for the goroutines of all subscriptions, which must have ended.
func (b *bus) wait() { b.work.Wait() }

// match calls f with the subscriptions that a subject goes to.
func (n *branch) match(tokens []string, f func(*subscription)) {
	if len(tokens) == 0 {
		for _, s := range n.here {
			f(s)
		}
		return
	}
	for _, s := range n.rest {
		f(s)
	}
	for _, token := range [...]string{tokens[0], "*"} {
		if next := n.next[token]; next != nil {
			next.match(tokens[1:], f)
		}
	}
}

// set is where the subscriptions to a subject are.
func (n *branch) set(tokens []string) *[]*subscription {
	for _, token := range tokens {
		if token == ">" {
			return &n.rest
		}
		if n.next == nil {
			n.next = make(map[string]*branch)
		}
		if n.next[token] == nil {
			n.next[token] = new(branch)
		}
		n = n.next[token]
	}
	return &n.here
}

func (n *branch) add(tokens []string, s *subscription) {
	set := n.set(tokens)
	*set = append(*set, s)
}

func (n *branch) remove(tokens []string, s *subscription) {
	set := n.set(tokens)
	*set = slices.DeleteFunc(*set, func(other *subscription) bool { return other == s })
}

func (s *subscription) put(m message) {
	s.mu.Lock()
	s.queue = append(s.queue, m)
	s.mu.Unlock()
	s.look()
}

func (s *subscription) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.look()
}

func (s *subscription) look() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// deliver hands over what is in the queue, until the end. It closes caughtUp
// when the queue is empty for the first time.
func (s *subscription) deliver(caughtUp chan struct{}) {
	for {
		s.mu.Lock()
		queue, ended := s.queue, s.ended
		s.queue = nil
		s.mu.Unlock()
		for i := 0; i < len(queue) && !ended; i++ {
			s.handle(queue[i].subject, queue[i].data, time.Since(queue[i].at))
			s.mu.Lock()
			ended = s.ended
			s.mu.Unlock()
		}
		if caughtUp != nil {
			close(caughtUp)
			caughtUp = nil
		}
		if ended {
			return
		}
		<-s.wake
	}
}
