package selector

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/probe"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// ProbeKey is the metadata key by which an instance chooses how it is measured:
// "connect", "http" or "http:/path", "http2", "grpc", "nats", or "none". A value that is
// none of these, or does not fit the endpoints of the instance, is ignored.
const ProbeKey = "proxima.probe"

// ProbeKind is a way to measure instances.
type ProbeKind string

// The ways. All but ProbeNATS measure on the network between caller and instance.
const (
	// ProbeConnect opens a TCP connection and closes it. It is the default, because it
	// suits every instance that listens. Instances with a tcp endpoint alone are measured
	// an eighth as often by default: databases block hosts that connect and say nothing.
	ProbeConnect ProbeKind = "connect"
	// ProbeHTTP sends requests on an open connection, see [probe.HTTP].
	ProbeHTTP ProbeKind = "http"
	// ProbeHTTP2 exchanges frames on an open connection, see [probe.HTTP2]: for gRPC,
	// and for HTTPS that speaks HTTP/2.
	ProbeHTTP2 ProbeKind = "http2"
	// ProbeGRPC is ProbeHTTP2 for instances that have a gRPC endpoint. What follows a
	// colon is ignored.
	ProbeGRPC ProbeKind = "grpc"
	// ProbeNATS pings through NATS, see [probe.NATS]. It is the default for instances
	// that have no other endpoint.
	ProbeNATS ProbeKind = "nats"
	// ProbeNone measures nothing: distances are what other callers measure, or predicted
	// from coordinates.
	ProbeNone ProbeKind = "none"
)

func (k ProbeKind) valid() bool {
	switch k {
	case ProbeConnect, ProbeHTTP, ProbeHTTP2, ProbeGRPC, ProbeNATS, ProbeNone:
		return true
	}
	return false
}

// measuring is how the instances of all services are measured.
type measuring struct {
	Probe
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	nc      *nats.Conn // nil: nothing is measured through NATS
	subject string     // of pings: <bucket>.
}

// target returns how an instance is measured. usual is for those that do not choose.
func (a *measuring) target(in *events.Instance, usual ProbeKind) latency.Target {
	t := latency.Target{Key: in.Key(), Incarnation: in.Incarnation, Coordinate: in.Coordinate}
	chosen, detail, _ := strings.Cut(in.Metadata[ProbeKey], ":")
	for _, kind := range []ProbeKind{ProbeKind(chosen), usual, ProbeConnect, ProbeNATS} {
		if a.set(&t, in, kind, detail) {
			return t
		}
		detail = ""
	}
	return t
}

// set reports whether an instance can be measured in a way, and if so has t measured so.
func (a *measuring) set(t *latency.Target, in *events.Instance, kind ProbeKind, detail string) bool {
	dial, secure := a.dial, a.TLS
	plain, encrypted := in.Endpoints[events.HTTP], in.Endpoints[events.HTTPS]
	switch kind {
	case ProbeNone:
		return true
	case ProbeConnect:
		t.Address = addressOf(in)
		// An instance that has nothing but tcp= may be a database, which blocks the host
		// of many connections that say nothing. It can ask for "connect" in its metadata.
		t.Rare = ProbeKind(in.Metadata[ProbeKey]) != ProbeConnect && onlyTCP(in)
		return t.Address != ""
	case ProbeHTTP:
		switch {
		case plain != "":
			inSession(t, func() *probe.Session { return probe.HTTP(dial, plain, detail, nil) })
		case encrypted != "":
			inSession(t, func() *probe.Session { return probe.HTTP(dial, encrypted, detail, orTLS(secure)) })
		}
	case ProbeHTTP2:
		switch grpc := in.Endpoints[events.GRPC]; {
		case grpc != "":
			inSession(t, func() *probe.Session { return probe.HTTP2(dial, grpc, secure) })
		case encrypted != "":
			inSession(t, func() *probe.Session { return probe.HTTP2(dial, encrypted, orTLS(secure)) })
		}
	case ProbeGRPC:
		if grpc := in.Endpoints[events.GRPC]; grpc != "" {
			inSession(t, func() *probe.Session { return probe.HTTP2(dial, grpc, secure) })
		}
	case ProbeNATS:
		if a.nc != nil && in.Endpoints[events.NATS] != "" {
			t.Probe = probe.NATS(a.nc, a.subject+in.Key().Ping())
		}
	}
	return t.Probe != nil
}

// lives reports whether an instance answers a probe that its process answers, not its
// kernel alone. The probe is not a sample of its distance: the process may be busy.
func (a *measuring) lives(ctx context.Context, in *events.Instance) bool {
	chosen, detail, _ := strings.Cut(in.Metadata[ProbeKey], ":")
	first := cmp.Or(ProbeKind(chosen), a.Kind)
	if first == ProbeNone {
		return false
	}
	for _, kind := range []ProbeKind{first, ProbeHTTP, ProbeHTTP2, ProbeNATS} {
		var t latency.Target
		if kind != ProbeConnect && a.set(&t, in, kind, detail) {
			if t.Done != nil {
				defer t.Done()
			}
			_, err := t.Probe(ctx)
			return probe.Answered(err)
		}
		detail = ""
	}
	return false
}

func orTLS(c *tls.Config) *tls.Config { return cmp.Or(c, &tls.Config{}) }

// inSession has a target measured in a session that keeps its connection. It is opened
// when it is first needed: most instances of a large service are never measured by this
// caller.
func inSession(t *latency.Target, open func() *probe.Session) {
	l := &lazySession{open: open}
	t.Probe, t.Done = l.probe, l.close
}

type lazySession struct {
	open func() *probe.Session

	mu      sync.Mutex
	session *probe.Session // nil: not open yet
	closed  bool
}

func (l *lazySession) probe(ctx context.Context) (time.Duration, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, fmt.Errorf("%w: it has left", probe.ErrNotProbed)
	}
	if l.session == nil {
		l.session = l.open()
	}
	session := l.session
	l.mu.Unlock()
	return session.Probe(ctx)
}

func (l *lazySession) close() {
	l.mu.Lock()
	l.closed = true
	session := l.session
	l.mu.Unlock()
	if session != nil {
		_ = session.Close()
	}
}

// onlyTCP reports whether an instance has an endpoint tcp, and no other that would say more
// of what it is.
func onlyTCP(in *events.Instance) bool {
	return len(in.Endpoints) == 1 && in.Endpoints[events.TCP] != ""
}

// addressOf is the address at which an instance is probed.
func addressOf(in *events.Instance) string {
	for _, p := range []string{events.TCP, events.HTTP, events.HTTPS, events.GRPC} {
		if a := in.Endpoints[p]; a != "" {
			return a
		}
	}
	return ""
}

// What follows is how load is measured: by the beats of instances.

const (
	// Beats that wait to be read. An old one is worth nothing, so there may be few.
	maxBeats     = 4096
	maxBeatBytes = 4 << 20
)

// invalid counts beats that are ignored, and when one was last logged.
type invalid struct {
	count  atomic.Uint64
	logged atomic.Int64 // on the selector's clock; 0: never
}

// log counts a beat, and logs one a minute at most: a flood must not fill the log.
func (i *invalid) log(log *slog.Logger, now time.Duration, subject string, err error) {
	i.count.Add(1)
	at := int64(now) + 1
	if last := i.logged.Load(); (last == 0 || at-last > int64(invalidEvery)) && i.logged.CompareAndSwap(last, at) {
		log.Warn("ignoring a beat that is not valid; more of them are only counted for a minute", "subject", subject, "error", err)
	}
}

// listenOnce has beats received, if they are not yet.
func (svc *service) listenOnce() {
	if svc.sel.nc != nil && svc.listening.CompareAndSwap(false, true) {
		svc.sel.work.Go(svc.listen)
	}
}

// listen receives the beats of the instances of a service until that is stopped.
func (svc *service) listen() {
	s := svc.sel
	sub, err := s.nc.SubscribeSync(s.subject + "beat." + svc.name + ".>")
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }()
		err = sub.SetPendingLimits(maxBeats, maxBeatBytes)
	}
	for err == nil || errors.Is(err, nats.ErrSlowConsumer) {
		var msg *nats.Msg
		if msg, err = sub.NextMsgWithContext(svc.run); err == nil {
			svc.beat(msg.Subject, msg.Data)
		}
	}
	if svc.run.Err() == nil && !errors.Is(err, context.Canceled) {
		s.log.Error("load reports are not received any more: load_aware balances by calls in flight", "service", svc.name, "error", err)
	}
}

// beat stores a beat with the node of its instance.
func (svc *service) beat(subject string, data []byte) {
	key, err := events.ParseBeatKey(strings.TrimPrefix(subject, svc.sel.subject))
	var beat events.Beat
	if err == nil {
		beat, err = events.DecodeBeat(data)
	}
	if err == nil && key.Service != svc.name {
		err = fmt.Errorf("selector: a beat of service %q", key.Service)
	}
	if err != nil {
		svc.sel.invalidBeats.log(svc.sel.log, svc.Now(), subject, err)
		return
	}
	var at events.Instance
	at.Service, at.Location.Region, at.Location.Zone, at.ID = key.Service, key.Region, key.Zone, key.ID
	svc.mu.Lock()
	defer svc.mu.Unlock()
	i, ok := slices.BinarySearchFunc(svc.members.list, &at, func(m table.Member, at *events.Instance) int { return m.In.Compare(at) })
	if !ok {
		return
	}
	m := &svc.members.list[i]
	if beat.Incarnation != "" && beat.Incarnation != m.In.Incarnation {
		return // of an earlier incarnation, or of one that is not listed yet
	}
	m.SetBeat(beat, table.Ticks(svc.Now()))
}
