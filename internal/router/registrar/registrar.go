// Package registrar registers instances for clients that cannot reach the
// registry.
//
// A [Registrar] keeps no state and has no timers: the lease of an instance lives
// as long as its client sends heartbeats, to this router or to any other. All that
// a heartbeat needs is in the router's [directory.Directory].
package registrar

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"time"

	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

var (
	// ErrNotListed is the error if no such instance is listed: it must register.
	ErrNotListed = errors.New("router: no such instance is listed, register it")
	// ErrConflict is the error if the id belongs to another instance.
	ErrConflict = errors.New("router: the id belongs to another instance")
)

// Registry is the part of the registry that a registrar needs. *kv.Registry is
// one.
type Registry interface {
	Register(ctx context.Context, in events.Instance, revision uint64) (uint64, error)
	Renew(ctx context.Context, in *events.Instance, revision uint64) error
	Deregister(ctx context.Context, in *events.Instance, revision uint64) error
	Lookup(ctx context.Context, k events.Key) (events.Entry, error)
}

// viewTimeout is how long a change of the registry may take to reach the
// directory.
const viewTimeout = time.Second

// Registrar registers instances and keeps their leases. It is safe for concurrent
// use.
type Registrar struct {
	registry  Registry
	directory *directory.Directory
}

// New returns a registrar that writes to r and reads from d.
func New(r Registry, d *directory.Directory) *Registrar { return &Registrar{registry: r, directory: d} }

// Registration is the result of a registration.
type Registration struct {
	events.Instance
	// Created is set if the id was free. Else the record was replaced.
	Created bool
	// HeartbeatEvery is how often the client must call Heartbeat.
	HeartbeatEvery time.Duration
}

// Ref names a listed instance.
type Ref struct {
	Service string `json:"service"`
	ID      string `json:"id"`
	// Incarnation, if given, must be the listed one: this tells a client that it
	// was replaced.
	Incarnation string `json:"incarnation,omitempty"`
}

func (r Ref) validate() error {
	if err := events.ValidateService(r.Service); err != nil {
		return err
	}
	return events.ValidateName("id", r.ID)
}

// Register lists an instance. If its id is listed already, that record is replaced
// if it has the same incarnation, or the same endpoints: then it is an earlier
// life of the same instance, as no other can listen there. Otherwise the error is
// [ErrConflict] until the lease of the other ends. An instance without an
// incarnation gets a new one.
func (g *Registrar) Register(ctx context.Context, in events.Instance) (Registration, error) {
	in.Incarnation = cmp.Or(in.Incarnation, rand.Text()[:12])
	if in.Started.IsZero() {
		in.Started = time.Now().UTC().Truncate(time.Millisecond)
	}
	data, err := events.Encode(in)
	if err != nil {
		return Registration{}, err
	}
	full, err := events.Decode(data) // with its defaults
	if err != nil {
		return Registration{}, err
	}
	former, err := g.elsewhere(full)
	if err != nil {
		return Registration{}, err
	}
	for range 3 {
		var revision uint64
		created := len(former) == 0
		listed, err := g.registry.Lookup(ctx, full.Key())
		switch {
		case errors.Is(err, kv.ErrNotFound):
		case err != nil:
			return Registration{}, err
		case !mayReplace(full, listed.Instance):
			return Registration{}, conflict(full, listed.Instance)
		default:
			revision, created = listed.Revision, false
		}
		revision, err = g.registry.Register(ctx, *full, revision)
		if errors.Is(err, kv.ErrFenced) {
			continue // another client was faster
		}
		if err != nil {
			return Registration{}, err
		}
		for _, l := range former { // the instance has moved
			if err := g.registry.Deregister(ctx, l.Instance, l.Revision); err != nil && !errors.Is(err, kv.ErrFenced) {
				return Registration{}, err
			}
		}
		g.awaitListed(ctx, full, revision)
		return Registration{*full, created, kv.RenewEvery(full.TTL)}, nil
	}
	return Registration{}, fmt.Errorf("%w: the record of %s keeps changing", ErrConflict, full.Key())
}

// mayReplace reports whether in is a later life of the listed instance.
func mayReplace(in, listed *events.Instance) bool {
	return listed.Incarnation == in.Incarnation || maps.Equal(listed.Endpoints, in.Endpoints)
}

// ConflictError is an [ErrConflict] that may pass.
type ConflictError struct {
	error
	// Within is when at the latest the lease of the other instance ends, if it is dead.
	Within time.Duration
}

// Unwrap returns an error that is [ErrConflict].
func (e *ConflictError) Unwrap() error { return e.error }

func conflict(in, listed *events.Instance) error {
	return &ConflictError{fmt.Errorf("%w: %q of %s is at %s in %s since %s; if that one is dead its lease ends within %v and you can try again, else give each instance an id of its own",
		ErrConflict, in.ID, in.Service, listed.Addresses(), listed.Location, listed.Started.Format(time.RFC3339), listed.TTL), listed.TTL}
}

// elsewhere returns earlier lives of the instance in other zones: an id is unique
// within its service, but the keys of the registry contain the zone.
func (g *Registrar) elsewhere(in *events.Instance) ([]directory.Record, error) {
	var former []directory.Record
	for _, l := range g.directory.Find(in.Service, in.ID) {
		switch {
		case l.Key() == in.Key():
		case l.Suspect || mayReplace(in, l.Instance):
			former = append(former, l)
		default:
			return nil, conflict(in, l.Instance)
		}
	}
	return former, nil
}

// awaitListed waits until the directory has the record: the client finds itself
// in lists, and its next heartbeat finds the record.
func (g *Registrar) awaitListed(ctx context.Context, in *events.Instance, revision uint64) {
	ctx, cancel := context.WithTimeout(ctx, viewTimeout)
	defer cancel()
	g.directory.Await(ctx, in.Service, func(events.Snapshot) bool {
		for _, l := range g.directory.Find(in.Service, in.ID) {
			if l.Revision >= revision {
				return true
			}
		}
		return false
	})
}

// Heartbeat renews the lease of a listed instance and returns when the next
// heartbeat is due. The error is [ErrNotListed] if the instance must register, and
// [ErrConflict] if another incarnation has its id.
func (g *Registrar) Heartbeat(ctx context.Context, ref Ref) (time.Duration, error) {
	l, err := g.lookup(ref)
	if err != nil {
		return 0, err
	}
	if l.Suspect { // it has no lease: callers that see it remember it
		return 0, fmt.Errorf("%w: the lease of %q of %s has ended", ErrNotListed, ref.ID, ref.Service)
	}
	if time.Now().After(rewriteAt(l)) {
		_, err = g.registry.Register(ctx, *l.Instance, l.Revision)
	} else {
		err = g.registry.Renew(ctx, l.Instance, l.Revision)
	}
	if errors.Is(err, kv.ErrFenced) { // the directory is behind
		err = g.retry(ctx, ref, l.Key(), g.registry.Renew)
	}
	if err != nil {
		return 0, err
	}
	return kv.RenewEvery(l.TTL), nil
}

// rewriteAt is the time from which a heartbeat also writes the record again: when
// the registry wants it, or up to a tenth earlier so that not all are written at
// once. The age of a record that is older than the directory is unknown: it is
// written during the first half of that time.
func rewriteAt(r directory.Record) time.Time {
	after := kv.RewriteAfter(r.TTL)
	if r.Old {
		return r.Since.Add(part(after/2, r.Revision))
	}
	return r.Since.Add(after - part(after/10, r.Revision))
}

// part is a part of d, between none and all, that depends on the revision alone.
func part(d time.Duration, revision uint64) time.Duration {
	const golden = 0x9E3779B97F4A7C15 // Fibonacci hashing
	hi, _ := bits.Mul64(uint64(d), revision*golden)
	return time.Duration(hi)
}

// Deregister removes an instance from the list. The error is [ErrNotListed] if it
// is not listed.
func (g *Registrar) Deregister(ctx context.Context, ref Ref) error {
	l, err := g.lookup(ref)
	if err != nil {
		return err
	}
	err = g.registry.Deregister(ctx, l.Instance, l.Revision)
	if errors.Is(err, kv.ErrFenced) {
		err = g.retry(ctx, ref, l.Key(), g.registry.Deregister)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, viewTimeout)
	defer cancel()
	g.directory.Await(ctx, ref.Service, func(events.Snapshot) bool { return len(g.directory.Find(ref.Service, ref.ID)) == 0 })
	return nil
}

// lookup finds a listed instance in the directory.
func (g *Registrar) lookup(ref Ref) (directory.Record, error) {
	if err := ref.validate(); err != nil {
		return directory.Record{}, err
	}
	if !g.directory.IsComplete() {
		return directory.Record{}, directory.ErrIncomplete
	}
	found := g.directory.Find(ref.Service, ref.ID)
	for i := range found {
		if ref.Incarnation == "" && len(found) == 1 || ref.Incarnation == found[i].Incarnation {
			return found[i], nil
		}
	}
	switch {
	case len(found) == 0:
		return directory.Record{}, fmt.Errorf("%w: %q of %s", ErrNotListed, ref.ID, ref.Service)
	case ref.Incarnation != "":
		return directory.Record{}, fmt.Errorf("%w: %q of %s is incarnation %s now", ErrConflict, ref.ID, ref.Service, found[0].Incarnation)
	}
	return directory.Record{}, fmt.Errorf("%w: %q of %s is listed in %s and in %s, say which incarnation is meant",
		ErrConflict, ref.ID, ref.Service, found[0].Location, found[1].Location)
}

// retry applies a refused operation to the present record of the instance, once.
func (g *Registrar) retry(ctx context.Context, ref Ref, key events.Key, do func(context.Context, *events.Instance, uint64) error) error {
	e, err := g.registry.Lookup(ctx, key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return fmt.Errorf("%w: %q of %s", ErrNotListed, ref.ID, ref.Service)
	case err != nil:
		return err
	case ref.Incarnation != "" && ref.Incarnation != e.Incarnation:
		return fmt.Errorf("%w: %q of %s is incarnation %s now", ErrConflict, ref.ID, ref.Service, e.Incarnation)
	}
	return do(ctx, e.Instance, e.Revision)
}
