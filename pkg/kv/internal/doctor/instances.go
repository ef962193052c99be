package doctor

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/documents"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

const (
	page = 2048 // messages that are asked for at a time
	most = 1000 // pages
	// late is by how much a lease may end later than its ttl: the server counts whole
	// seconds.
	late = 2 * time.Second
	// dialled is how many endpoints are tried, and dialTime how long one may take.
	dialled  = 32
	dialTime = time.Second
	shown    = 3 // names of a kind
)

// listing is what the bucket has.
type listing struct {
	instances map[string]*events.Instance // by name; nil: removed
	leases    map[string]time.Time        // when they were renewed, by name
	broken    []string                    // keys of records that cannot be read
}

func (e *examination) instances(ctx context.Context) {
	l, err := e.list(ctx)
	if err != nil {
		e.add("instances", Error, "see whether the servers with copies run", "the list cannot be read: %v", err)
		return
	}
	services := map[string]bool{}
	var unknown, ghosts, overdue []string
	var doubtful []*events.Instance
	listed := 0
	for name, in := range l.instances {
		if in == nil {
			continue
		}
		listed++
		services[in.Service] = true
		if in.Location.Region == "" || in.Location.Zone == "" {
			unknown = append(unknown, name)
		}
		switch renewed, ok := l.leases[name]; {
		case !ok:
			ghosts, doubtful = append(ghosts, name), append(doubtful, in)
		case time.Now().Add(e.ahead).Sub(renewed) > in.TTL+late:
			overdue, doubtful = append(overdue, name), append(doubtful, in)
		}
	}
	var orphans []string
	for name := range l.leases {
		if _, ok := l.instances[name]; !ok {
			orphans = append(orphans, name)
		}
	}
	e.add("instances", OK, "", "%s of %s", count(listed, "instance"), count(len(services), "service"))
	e.some("decoding", Warning, l.broken, "stop the program that writes them; they are ignored, and go with their leases",
		"every record can be read", "record", "that cannot be read")
	e.some("locations", Warning, unknown, "give their announcers --region and --zone (PROXIMA_REGION, PROXIMA_ZONE): nothing is near an unknown place",
		"every instance says its region and zone", "instance", "without region or zone")
	e.some("leases", Warning, slices.Concat(ghosts, orphans), "start the announcers of the records again, with the same ids; leases without a record go by themselves",
		"every record has its lease", "id", "with only a record or only a lease")
	e.some("expiry", Error, overdue, "see whether the stream has a leader, and its server room on disk: it does not remove what is dead",
		"no lease is overdue", "instance", "not removed by the server after the end of the lease")
	if silent := unreachable(ctx, doubtful); len(silent) > 0 {
		e.some("ghosts", Warning, silent, "if they are gone: nats kv purge "+e.Link.Name+" inst.<key>; else start their announcers", "", "instance", "of these cannot be reached from here")
	}
}

// policies looks for those that cannot be read: callers that begin have no last good one.
func (e *examination) policies(ctx context.Context) {
	all := documents.NewCollection(documents.Policies, e.Link, []*wire.Bucket{&e.Link.Bucket}, false)
	good, faults, err := all.Faults(ctx)
	switch {
	case err != nil:
		e.add("policies", Error, "see whether the servers with copies run", "the policies cannot be read: %v", err)
	case len(faults) > 0:
		var bad []string
		for key, why := range faults {
			bad = append(bad, fmt.Sprintf("%s (%.120v)", key, why))
		}
		e.some("policies", Error, bad, "router policy edit NAME, or router policy rm NAME; for a key that is no service's: nats kv del "+e.Link.Name+" KEY",
			"", "document", "that should be a policy and cannot be read")
	default:
		e.add("policies", OK, "", "%s, and every policy can be read", count(good, "document"))
	}
}

// some adds a finding about names, each that of a noun; what is true of them.
func (e *examination) some(check string, level Level, names []string, advice, none, noun, what string) {
	if len(names) == 0 {
		e.add(check, OK, "", "%s", none)
		return
	}
	slices.Sort(names)
	text := fmt.Sprintf("%s %s: %s", count(len(names), noun), what, strings.Join(names[:min(shown, len(names))], ", "))
	if len(names) > shown {
		text += ", …"
	}
	e.add(check, level, advice, "%s", text)
}

// list reads all records and leases.
func (e *examination) list(ctx context.Context) (*listing, error) {
	l := &listing{instances: map[string]*events.Instance{}, leases: map[string]time.Time{}}
	b := &e.Link.Bucket
	err := e.Link.Read(ctx, b.Direct, wire.Get{Seq: 1, NextFor: b.Inst + ">", Batch: page}, most, func(msg *nats.Msg) {
		c, err := b.Parse(msg)
		switch {
		case err != nil:
			l.broken = append(l.broken, strings.TrimPrefix(wire.Stamp(msg.Header, wire.HdrSubject), b.Prefix))
		case c.Err != nil:
			l.broken = append(l.broken, c.Key.Inst())
			l.instances[c.Name] = nil
		default:
			l.instances[c.Name] = c.Instance
		}
	})
	if err != nil {
		return nil, err
	}
	leases := b.Prefix + "lease."
	err = e.Link.Read(ctx, b.Direct, wire.Get{Seq: 1, NextFor: leases + ">", Batch: page}, most, func(msg *nats.Msg) {
		at, err := time.Parse(time.RFC3339Nano, wire.Stamp(msg.Header, wire.HdrTimestamp))
		if err == nil && msg.Header.Get("Nats-Schedule") != "" {
			l.leases[strings.TrimPrefix(wire.Stamp(msg.Header, wire.HdrSubject), leases)] = at
		}
	})
	return l, err
}

// unreachable are the instances that do not take a connection. Those with a subject only
// are left out.
func unreachable(ctx context.Context, list []*events.Instance) []string {
	var mu sync.Mutex
	var silent []string
	var dials sync.WaitGroup
	for _, in := range list[:min(len(list), dialled)] {
		for protocol, address := range in.Endpoints {
			if protocol == events.NATS {
				continue
			}
			dials.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, dialTime)
				defer cancel()
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
				if err == nil {
					_ = conn.Close() // nothing was sent
					return
				}
				mu.Lock()
				defer mu.Unlock()
				silent = append(silent, in.Key().String()+" ("+address+")")
			})
			break
		}
	}
	dials.Wait()
	return silent
}
