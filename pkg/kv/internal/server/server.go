// Package server is what a registry has to know of the NATS servers that keep it: their
// versions, how many there are, and what their clocks show.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Wanted is the oldest version of nats-server that a registry works with.
const Wanted = "2.14.4"

// ErrTooOld says that a server is older than the first version that supports leases.
var ErrTooOld = errors.New("kv: the NATS server is too old")

// Check returns [ErrTooOld] if a server of that version cannot keep a registry. A version
// that cannot be read is taken for a new one.
func Check(where, version string) error {
	have, ok := numbers(version)
	want, _ := numbers(Wanted)
	if !ok || slices.Compare(have, want) >= 0 {
		return nil
	}
	return fmt.Errorf("%w: %s is version %s, and leases need %s or later: upgrade it (nothing was made)", ErrTooOld, where, version, Wanted)
}

// CheckConnected is Check of the server that the connection is connected to. There is no
// error while it is connected to none.
func CheckConnected(conn *nats.Conn) error {
	version := conn.ConnectedServerVersion()
	if version == "" {
		return nil
	}
	return Check(conn.ConnectedUrlRedacted(), version)
}

// numbers reads major.minor.patch, of which what follows a "-" is left out.
func numbers(version string) ([]int, bool) {
	version, _, _ = strings.Cut(strings.TrimPrefix(version, "v"), "-")
	parts := strings.Split(version, ".")
	if len(parts) != 3 {
		return nil, false
	}
	list := make([]int, len(parts))
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil {
			return nil, false
		}
		list[i] = int(n)
	}
	return list, true
}

// Info is what a server says of itself.
type Info struct {
	Name      string    `json:"name"`
	ID        string    `json:"id"`
	Cluster   string    `json:"cluster"`
	Domain    string    `json:"domain"`
	Version   string    `json:"ver"`
	JetStream bool      `json:"jetstream"`
	Time      time.Time `json:"time"`

	// Ahead is how far its clock is ahead of ours, and Within how exact that is.
	Ahead, Within time.Duration `json:"-"`
}

// quiet is how long the answers of further servers are waited for.
const quiet = 250 * time.Millisecond

// every is the subject on which every server that a client of the account can reach
// answers. Every user may ask it, unless a permission forbids it.
const every = "$SYS.REQ.ACCOUNT.PING.STATZ"

// All asks the servers that can be reached, by way of the one of the connection, what
// they are. It returns when no more have answered for a moment; none is an error.
func All(ctx context.Context, conn *nats.Conn) ([]Info, error) {
	sub, err := conn.SubscribeSync(conn.NewInbox())
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is closed
	began := time.Now()
	if err := conn.PublishRequest(every, sub.Subject, []byte(`{"include_unused":true}`)); err != nil {
		return nil, err
	}
	var all []Info
	for wait := 4 * quiet; ; wait = quiet {
		once, cancel := context.WithTimeout(ctx, wait)
		msg, err := sub.NextMsgWithContext(once)
		cancel()
		if err != nil {
			if len(all) == 0 {
				return nil, fmt.Errorf("kv: no server answers on %s: %w", every, err)
			}
			slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
			return all, nil
		}
		var answer struct {
			Server Info `json:"server"`
		}
		if json.Unmarshal(msg.Data, &answer) == nil && answer.Server.ID != "" {
			way := time.Since(began) / 2
			answer.Server.Ahead, answer.Server.Within = answer.Server.Time.Sub(began.Add(way)), way
			all = append(all, answer.Server)
		}
	}
}

// Keeping counts the servers of a cluster that keep streams in a domain.
func Keeping(all []Info, cluster, domain string) int {
	n := 0
	for _, s := range all {
		if s.JetStream && s.Cluster == cluster && (domain == "" || s.Domain == domain) {
			n++
		}
	}
	return n
}

// Lasting are the options of a connection that never gives up by itself.
func Lasting() []nats.Option {
	return []nats.Option{
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1), // what is late is not true any more
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
	}
}

// A dead server is noticed after maxPings pings without an answer, within 6 s: early
// enough to renew leases of the default ttl (15 s) by way of another server.
const (
	reconnectWait   = 100 * time.Millisecond // between two rounds of attempts to connect
	reconnectJitter = 150 * time.Millisecond // at most this much more
	pingInterval    = 2 * time.Second
	maxPings        = 2 // without an answer
)

// Ends are the options that a connection lacks to never give up by itself: it would
// close for good in an outage, or while credentials are changed.
func Ends(o *nats.Options) []string {
	var lacks []string
	if !o.AllowReconnect || o.MaxReconnect >= 0 {
		lacks = append(lacks, "nats.MaxReconnects(-1)")
	}
	if !o.IgnoreAuthErrorAbort {
		lacks = append(lacks, "nats.IgnoreAuthErrorAbort()")
	}
	return lacks
}
