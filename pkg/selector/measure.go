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

// ProbeKey is the metadata key by which an instance says how it wants to be
// measured: "connect", "http" or "http:/path", "http2", "grpc" or
// "grpc:service", "nats", or "none". What does not fit its endpoints, or is
// none of these, is measured as if nothing had been said.
const ProbeKey = "proxima.probe"

// ProbeKind is a way to measure instances.
type ProbeKind string

// The ways. All but NATS measure on the network between the two.
const (
	// ProbeConnect opens a TCP connection and closes it: the default, for
	// whatever listens.
	ProbeConnect ProbeKind = "connect"
	// ProbeHTTP asks on an open connection, see [probe.HTTP].
	ProbeHTTP ProbeKind = "http"
	// ProbeHTTP2 exchanges frames on an open connection, see
	// [probe.HTTP2]: for gRPC, and for HTTPS that speaks HTTP/2.
	ProbeHTTP2 ProbeKind = "http2"
	// ProbeGRPC is ProbeHTTP2 for instances that have a gRPC endpoint. A
	// service after the colon is ignored.
	ProbeGRPC ProbeKind = "grpc"
	// ProbeNATS pings through NATS, see [probe.NATS]: the default for
	// instances that have no other endpoint.
	ProbeNATS ProbeKind = "nats"
	// ProbeNone leaves it to coordinates, and to what others measure.
	ProbeNone ProbeKind = "none"
)

func (k ProbeKind) valid() bool {
	switch k {
	case ProbeConnect, ProbeHTTP, ProbeHTTP2, ProbeGRPC, ProbeNATS, ProbeNone:
		return true
	}
	return false
}

// aim is how instances are measured.
type aim struct {
	Probe
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	nc      *nats.Conn // nil: nothing is measured through NATS
	subject string     // of pings: <bucket>.
}

// target is how an instance is measured.
func (a *aim) target(in *events.Instance) latency.Target {
	t := latency.Target{Key: in.Key(), Incarnation: in.Incarnation, Coordinate: in.Coordinate}
	said, detail, _ := strings.Cut(in.Metadata[ProbeKey], ":")
	for _, kind := range []ProbeKind{ProbeKind(said), a.Kind, ProbeConnect, ProbeNATS} {
		if a.set(&t, in, kind, detail) {
			return t
		}
		detail = ""
	}
	return t
}

// set sets how a target is measured, if it can be measured in that way.
func (a *aim) set(t *latency.Target, in *events.Instance, kind ProbeKind, detail string) bool {
	dial, secure := a.dial, a.TLS
	plain, encrypted := in.Endpoints[events.HTTP], in.Endpoints[events.HTTPS]
	switch kind {
	case ProbeNone:
		return true
	case ProbeConnect:
		t.Address = addressOf(in)
		return t.Address != ""
	case ProbeHTTP:
		switch {
		case plain != "":
			keep(t, func() *probe.Session { return probe.HTTP(dial, plain, detail, nil) })
		case encrypted != "":
			keep(t, func() *probe.Session { return probe.HTTP(dial, encrypted, detail, orTLS(secure)) })
		}
	case ProbeHTTP2:
		switch grpc := in.Endpoints[events.GRPC]; {
		case grpc != "":
			keep(t, func() *probe.Session { return probe.HTTP2(dial, grpc, secure) })
		case encrypted != "":
			keep(t, func() *probe.Session { return probe.HTTP2(dial, encrypted, orTLS(secure)) })
		}
	case ProbeGRPC:
		if grpc := in.Endpoints[events.GRPC]; grpc != "" {
			keep(t, func() *probe.Session { return probe.HTTP2(dial, grpc, secure) })
		}
	case ProbeNATS:
		if a.nc != nil && in.Endpoints[events.NATS] != "" {
			t.Probe = probe.NATS(a.nc, a.subject+in.Key().Ping())
		}
	}
	return t.Probe != nil
}

func orTLS(c *tls.Config) *tls.Config { return cmp.Or(c, &tls.Config{}) }

// keep makes a target be measured by a ping that keeps its connection. It is
// made when it is first needed: most instances of a large service never are.
func keep(t *latency.Target, open func() *probe.Session) {
	k := &kept{open: open}
	t.Probe, t.Done = k.probe, k.close
}

type kept struct {
	open func() *probe.Session

	mu     sync.Mutex
	ping   *probe.Session
	closed bool
}

func (k *kept) probe(ctx context.Context) (time.Duration, error) {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return 0, fmt.Errorf("%w: it has left", probe.ErrNotProbed)
	}
	if k.ping == nil {
		k.ping = k.open()
	}
	ping := k.ping
	k.mu.Unlock()
	return ping.Probe(ctx)
}

func (k *kept) close() {
	k.mu.Lock()
	k.closed = true
	ping := k.ping
	k.mu.Unlock()
	if ping != nil {
		_ = ping.Close()
	}
}

// addressOf is where an instance is probed.
func addressOf(in *events.Instance) string {
	for _, p := range []string{events.TCP, events.HTTP, events.HTTPS, events.GRPC} {
		if a := in.Endpoints[p]; a != "" {
			return a
		}
	}
	return ""
}
