// Package registrar lists instances for clients that do not speak to the
// registry.
package registrar

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

var (
	// ErrNotListed says that no such instance is listed: it has to register.
	ErrNotListed = errors.New("router: no such instance is listed, register it")
	// ErrConflict says that the id of an instance belongs to another one.
	ErrConflict = errors.New("router: the id belongs to another instance")
)

// Registry is what a registrar needs of the registry. *kv.Registry is one.
type Registry interface {
	Register(ctx context.Context, in events.Instance, revision uint64) (uint64, error)
	Renew(ctx context.Context, in *events.Instance, revision uint64) error
	Deregister(ctx context.Context, in *events.Instance, revision uint64) error
	Lookup(ctx context.Context, k events.Key) (events.Entry, error)
}

// ownView is how long a registration waits until this router lists it too.
const ownView = time.Second

// Registrar lists instances for clients that do not speak to the registry. It
// has no timers: a lease lives exactly as long as its client sends heartbeats,
// to this router or any other, for all that a heartbeat needs is found in the
// router's own view of the registry.
type Registrar struct {
	leases    Registry
	directory *directory.Directory
}

// New returns a registrar that writes to r and reads from d.
func New(r Registry, d *directory.Directory) *Registrar { return &Registrar{leases: r, directory: d} }

// Registration is what a registration has led to.
type Registration struct {
	events.Instance
	// Created says that the id was free; else the record was replaced.
	Created bool
	// HeartbeatEvery is how often the client must call Heartbeat.
	HeartbeatEvery time.Duration
}

// Ref names a listed instance.
type Ref struct {
	Service string `json:"service"`
	ID      string `json:"id"`
	// Incarnation, if given, must be the listed one: so that a client which
	// was replaced finds out.
	Incarnation string `json:"incarnation,omitempty"`
}

func (r Ref) validate() error {
	if err := events.ValidateService(r.Service); err != nil {
		return err
	}
	return events.ValidateName("id", r.ID)
}

// Register lists in. If its id is listed already, that record is replaced when
// it is an earlier record of the same incarnation, or an earlier life of the
// same instance: one with the same endpoints, as nobody else can be there.
// Anybody else's is [ErrConflict], until its lease ends. Who gives no
// incarnation begins a new life and gets a new one.
func (g *Registrar) Register(ctx context.Context, in events.Instance) (Registration, error) {
	if in.Incarnation == "" {
		in.Incarnation = rand.Text()[:12]
	}
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
		held, err := g.leases.Lookup(ctx, full.Key())
		switch {
		case errors.Is(err, kv.ErrNotFound):
		case err != nil:
			return Registration{}, err
		case !replaces(full, held.Instance):
			return Registration{}, conflict(full, held.Instance)
		default:
			revision, created = held.Revision, false
		}
		revision, err = g.leases.Register(ctx, *full, revision)
		if errors.Is(err, kv.ErrFenced) {
			continue // somebody else was faster
		}
		if err != nil {
			return Registration{}, err
		}
		for _, l := range former { // it has moved
			if err := g.leases.Deregister(ctx, l.Instance, l.Revision); err != nil && !errors.Is(err, kv.ErrFenced) {
				return Registration{}, err
			}
		}
		g.settle(ctx, full, revision)
		return Registration{*full, created, heartbeatEvery(full.TTL)}, nil
	}
	return Registration{}, fmt.Errorf("%w: %s changes all the time", ErrConflict, full.Key())
}

func heartbeatEvery(ttl time.Duration) time.Duration { return ttl / 3 }

// replaces says whether in may take the place of the listed instance.
func replaces(in, held *events.Instance) bool {
	return held.Incarnation == in.Incarnation || maps.Equal(held.Endpoints, in.Endpoints)
}

func conflict(in, held *events.Instance) error {
	return fmt.Errorf("%w: %q of %s is at %s in %s since %s; if that one is dead its lease ends within %v and you can try again, else give each instance an id of its own",
		ErrConflict, in.ID, in.Service, held.Addresses(), held.Location, held.Started.Format(time.RFC3339), held.TTL)
}

// elsewhere returns earlier lives of the instance in other zones. An id is
// unique within its service, though the registry keeps it by its zone too.
func (g *Registrar) elsewhere(in *events.Instance) ([]directory.Lease, error) {
	var former []directory.Lease
	for _, l := range g.directory.Find(in.Service, in.ID) {
		switch {
		case l.Key() == in.Key():
		case l.Suspect || replaces(in, l.Instance):
			former = append(former, l)
		default:
			return nil, conflict(in, l.Instance)
		}
	}
	return former, nil
}

// settle waits until this router lists the record too, so that the client
// finds itself when it looks, and its next heartbeat finds the record.
func (g *Registrar) settle(ctx context.Context, in *events.Instance, revision uint64) {
	ctx, cancel := context.WithTimeout(ctx, ownView)
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

// Heartbeat renews the lease of a listed instance and says when the next one
// is due. The error is [ErrNotListed] when the instance has to register, and
// [ErrConflict] when another incarnation has its id.
func (g *Registrar) Heartbeat(ctx context.Context, ref Ref) (time.Duration, error) {
	l, err := g.lookup(ref)
	if err != nil {
		return 0, err
	}
	if time.Now().After(l.Rewrite) {
		_, err = g.leases.Register(ctx, *l.Instance, l.Revision)
	} else {
		err = g.leases.Renew(ctx, l.Instance, l.Revision)
	}
	if errors.Is(err, kv.ErrFenced) { // our view is late
		err = g.again(ctx, ref, l.Key(), g.leases.Renew)
	}
	if err != nil {
		return 0, err
	}
	return heartbeatEvery(l.TTL), nil
}

// Deregister takes an instance out of the list. The error is [ErrNotListed]
// when it is not in it.
func (g *Registrar) Deregister(ctx context.Context, ref Ref) error {
	l, err := g.lookup(ref)
	if err != nil {
		return err
	}
	err = g.leases.Deregister(ctx, l.Instance, l.Revision)
	if errors.Is(err, kv.ErrFenced) {
		err = g.again(ctx, ref, l.Key(), g.leases.Deregister)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ownView)
	defer cancel()
	g.directory.Await(ctx, ref.Service, func(events.Snapshot) bool { return len(g.directory.Find(ref.Service, ref.ID)) == 0 })
	return nil
}

// lookup finds a listed instance in the router's view.
func (g *Registrar) lookup(ref Ref) (directory.Lease, error) {
	if err := ref.validate(); err != nil {
		return directory.Lease{}, err
	}
	if !g.directory.IsWhole() {
		return directory.Lease{}, directory.ErrIncomplete
	}
	found := g.directory.Find(ref.Service, ref.ID)
	for i := range found {
		if ref.Incarnation == "" && len(found) == 1 || ref.Incarnation == found[i].Incarnation {
			return found[i], nil
		}
	}
	switch {
	case len(found) == 0:
		return directory.Lease{}, fmt.Errorf("%w: %q of %s", ErrNotListed, ref.ID, ref.Service)
	case ref.Incarnation != "":
		return directory.Lease{}, fmt.Errorf("%w: %q of %s is incarnation %s now", ErrConflict, ref.ID, ref.Service, found[0].Incarnation)
	}
	return directory.Lease{}, fmt.Errorf("%w: %q of %s is listed in %s and in %s, say which incarnation is meant",
		ErrConflict, ref.ID, ref.Service, found[0].Location, found[1].Location)
}

// again does what was fenced to the record as it is now, once.
func (g *Registrar) again(ctx context.Context, ref Ref, key events.Key, do func(context.Context, *events.Instance, uint64) error) error {
	e, err := g.leases.Lookup(ctx, key)
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
