// Package doctor finds out what is wrong with a registry: with its servers, its streams,
// the permissions of the user, and the instances that are listed. It changes nothing but
// the settings of streams, and these only if asked to.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/server"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Warning Level = "warning" // it works, and less well than it could, or not for all
	Error   Level = "error"   // something does not work
)

// Finding is the result of one check.
type Finding struct {
	Check   string `json:"check"`
	Level   Level  `json:"level"`
	Text    string `json:"text"`
	Advice  string `json:"advice,omitempty"` // what to do, unless all is well
	Fixable bool   `json:"fixable,omitempty"`
}

// Patient is the registry that is looked at.
type Patient struct {
	Link     *wire.Link
	Want     jetstream.StreamConfig // of the bucket
	Replicas int                    // wanted, if there are as many servers
	Regions  []string               // other regions that are read
	Sourced  string                 // the stream of these
}

// examination is one look at a patient.
type examination struct {
	Patient
	findings []Finding
	servers  []server.Info
	ahead    time.Duration // of the servers' clock
}

func (e *examination) add(check string, level Level, advice, format string, args ...any) *Finding {
	e.findings = append(e.findings, Finding{Check: check, Level: level, Text: fmt.Sprintf(format, args...), Advice: advice})
	return &e.findings[len(e.findings)-1]
}

// Examine makes all checks. What cannot be checked, because something else is wrong, is
// left out.
func Examine(ctx context.Context, p Patient) []Finding {
	e := &examination{Patient: p}
	if err := p.Link.Connected(); err != nil {
		e.add("connection", Error, "start a NATS server, or correct --nats-url and the credentials", "%v", err)
		return e.findings
	}
	e.connection()
	if !e.version(ctx) {
		return e.findings
	}
	e.clock()
	e.permissions(ctx)
	if !e.account(ctx) {
		return e.findings
	}
	e.domain()
	info := e.bucket(ctx)
	e.regions(ctx)
	if info != nil {
		e.tries(ctx)
		e.instances(ctx)
		e.policies(ctx)
	}
	return e.findings
}

func (e *examination) connection() {
	conn := e.Link.Conn
	took, err := conn.RTT()
	if err != nil {
		e.add("connection", Error, "see whether the server is overloaded, or the network loses packets", "%s does not answer: %v", conn.ConnectedUrlRedacted(), err)
		return
	}
	e.add("connection", OK, "", "%s, round trip %v", conn.ConnectedUrlRedacted(), took.Round(time.Microsecond))
}

// version reports whether the servers can keep a registry.
func (e *examination) version(ctx context.Context) bool {
	conn := e.Link.Conn
	all, err := server.All(ctx, conn)
	if err != nil {
		all = []server.Info{{Name: conn.ConnectedServerName(), Version: conn.ConnectedServerVersion(), Cluster: conn.ConnectedClusterName(), Domain: conn.ConnectedDomain(), JetStream: true}}
	} else {
		e.servers = all
	}
	var versions []string
	for _, s := range all {
		if err := server.Check(s.Name, s.Version); err != nil {
			e.add("version", Error, "upgrade every server to nats-server "+server.Wanted+" or later", "%s is version %s, and leases need %s or later", s.Name, s.Version, server.Wanted)
			return false
		}
		versions = append(versions, s.Version)
	}
	slices.Sort(versions)
	versions = slices.Compact(versions)
	text := fmt.Sprintf("%s of nats-server %s", count(len(all), "server"), strings.Join(versions, ", "))
	if len(versions) > 1 {
		e.add("version", Warning, "finish the upgrade: the servers should have one version", "%s", text)
	} else {
		e.add("version", OK, "", "%s", text)
	}
	return true
}

// tolerated is by how much clocks may differ: no clock of a client decides anything, but
// ages and logs are read together.
const tolerated = 2 * time.Second

func (e *examination) clock() {
	if len(e.servers) == 0 {
		return
	}
	worst := e.servers[0]
	for _, s := range e.servers {
		if s.Ahead.Abs()-s.Within > worst.Ahead.Abs()-worst.Within {
			worst = s
		}
		if s.ID == e.Link.Conn.ConnectedServerId() {
			e.ahead = s.Ahead
		}
	}
	off := worst.Ahead.Round(time.Millisecond)
	if worst.Ahead.Abs()-worst.Within > tolerated {
		e.add("clock", Warning, "synchronise the clocks (NTP): leases do not depend on it, ages and logs do", "the clock of %s is %v ahead of this machine's", worst.Name, off)
		return
	}
	e.add("clock", OK, "", "at most %v between this machine and the servers", max(off.Abs(), time.Millisecond))
}

// account looks at JetStream and its limits, and reports whether there is JetStream.
func (e *examination) account(ctx context.Context) bool {
	ctx, cancel := e.patience(ctx)
	defer cancel()
	info, err := e.Link.JS.AccountInfo(ctx)
	if err != nil {
		advice := "start the server with JetStream enabled (nats-server -js) and a store directory, and enable it for the account"
		if e.Link.Domain != "" {
			advice = "see whether the servers of domain " + e.Link.Domain + " run, have JetStream, and can be reached from here"
		}
		said := e.Link.Explain(e.Link.API+"INFO", err)
		switch {
		case errors.Is(said, nats.ErrPermissionViolation):
			advice = "allow this user to publish to " + e.Link.API + "INFO, or use the credentials of another"
		case wire.Transient(err) && !errors.Is(err, nats.ErrNoResponders):
			advice = "see whether a majority of the servers runs: JetStream has no leader without"
		}
		e.add("jetstream", Error, advice, "%v", said)
		return false
	}
	tiers := []jetstream.Tier{info.Tier}
	for _, t := range info.Tiers {
		tiers = append(tiers, t)
	}
	for _, t := range tiers {
		l := t.Limits
		switch {
		case l.MaxStreams > 0 && t.Streams >= l.MaxStreams:
			e.add("limits", Warning, "raise the account's limit of streams: a registry needs two, and one for other regions", "%d of %d streams are used", t.Streams, l.MaxStreams)
			return true
		case l.MaxStore > 0 && t.Store*10 > uint64(l.MaxStore)*9:
			e.add("limits", Error, "raise the account's limit of storage: without room no lease is renewed", "%d of %d bytes of storage are used", t.Store, l.MaxStore)
			return true
		case l.MaxMemory > 0 && t.Memory*10 > uint64(l.MaxMemory)*9:
			e.add("limits", Warning, "raise the account's limit of memory: callers share what they measure there", "%d of %d bytes of memory are used", t.Memory, l.MaxMemory)
			return true
		}
	}
	e.add("limits", OK, "", "%s, %d bytes of storage, %d of memory used", count(info.Streams, "stream"), info.Store, info.Memory)
	return true
}

// domain looks where writes go.
func (e *examination) domain() {
	near, want := e.Link.Conn.ConnectedDomain(), e.Link.Domain
	switch {
	case want == "" && near == "":
		e.add("domain", OK, "", "none")
	case want == "":
		e.add("domain", OK, "", "%s, that of the server", near)
	case near != "" && near != want:
		e.add("domain", Warning, "connect to a server of domain "+want+": this one is a detour, and another point of failure", "%s was asked for, and the server is in %s", want, near)
	default:
		e.add("domain", OK, "", "%s", want)
	}
}

// patience bounds one request.
func (e *examination) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, e.Link.OpTimeout)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
