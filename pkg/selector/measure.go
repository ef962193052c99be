package selector

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/probe"
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

// target returns how an instance is measured.
func (a *measuring) target(in *events.Instance) latency.Target {
	t := latency.Target{Key: in.Key(), Incarnation: in.Incarnation, Coordinate: in.Coordinate}
	chosen, detail, _ := strings.Cut(in.Metadata[ProbeKey], ":")
	for _, kind := range []ProbeKind{ProbeKind(chosen), a.Kind, ProbeConnect, ProbeNATS} {
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
