package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// permissions are those of the user, as the server tells them.
type permissions struct {
	Publish   *subjects `json:"publish"`
	Subscribe *subjects `json:"subscribe"`
}

type subjects struct {
	Allow []string `json:"allow"`
	Deny  []string `json:"deny"`
}

// allows reports whether all that a subject matches is allowed.
func (s *subjects) allows(subject string) bool {
	if s == nil {
		return true
	}
	allowed := len(s.Allow) == 0
	for _, a := range s.Allow {
		allowed = allowed || covers(strings.Fields(a)[0], subject)
	}
	return allowed && !slices.ContainsFunc(s.Deny, func(d string) bool { return covers(strings.Fields(d)[0], subject) })
}

// covers reports whether a pattern matches every subject that another one does.
func covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s) || s[i] == ">":
			return false
		case token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

// right is what a program must be allowed.
type right struct {
	publish bool
	subject string
}

// needs are the rights of each kind of program. A service or instance may stand for all.
func (e *examination) needs() map[string][]right {
	b, api := e.Link.Bucket, e.Link.API
	const name = "service.region.zone.id"
	read := []right{
		{true, b.Direct}, {true, b.Leader}, {false, b.Live + "inst." + name}, {false, b.Live + "evacuate.region.zone"}, {false, b.Live + "policy.service"}, {false, "_INBOX.x"},
	}
	latency := []right{
		{true, b.Live + "latency.region.zone.service.reporter"}, {false, b.Live + "latency.region.zone.service.reporter"}, {true, b.Live + "ping." + name},
	}
	write := []right{
		{true, b.Prefix + "inst." + name}, {true, b.Prefix + "lease." + name}, {true, b.Direct}, {true, api + "STREAM.INFO." + b.Stream}, {false, "_INBOX.x"},
	}
	doors := []right{{false, b.Live + "route.service"}, {false, b.Live + "resolve.service"}, {false, b.Live + "explain.service"}, {false, "$SRV.PING"}}
	return map[string][]right{
		"announcer": slices.Concat(write, []right{{true, b.Live + "beat." + name}, {false, b.Live + "ping." + name}}),
		"caller":    slices.Concat(read, latency),
		"router":    slices.Concat(read, latency, write, doors),
	}
}

// permissions compares what this user may with what programs need.
func (e *examination) permissions(ctx context.Context) {
	ctx, cancel := e.patience(ctx)
	defer cancel()
	msg, err := e.Link.Conn.RequestWithContext(ctx, "$SYS.REQ.USER.INFO", nil)
	var answer struct {
		Data struct {
			User        string       `json:"user"`
			Permissions *permissions `json:"permissions"`
		} `json:"data"`
	}
	if err == nil {
		err = json.Unmarshal(msg.Data, &answer)
	}
	if err != nil {
		e.add("permissions", Warning, "allow this user to publish to $SYS.REQ.USER.INFO, to see what it may", "the server does not tell what this user may: %v", err)
		return
	}
	may := answer.Data.Permissions
	if may == nil {
		e.add("permissions", OK, "", "this user may do all")
		return
	}
	needs := e.needs()
	for _, role := range []string{"announcer", "caller", "router"} {
		var lacks []string
		for _, r := range needs[role] {
			switch {
			case r.publish && !may.Publish.allows(r.subject):
				lacks = append(lacks, "publish to "+r.subject)
			case !r.publish && !may.Subscribe.allows(r.subject):
				lacks = append(lacks, "subscribe to "+r.subject)
			}
		}
		if len(lacks) == 0 {
			e.add("permissions", OK, "", "this user may be that of %s", plural(role))
			continue
		}
		e.add("permissions", Warning, "allow it in the server's configuration, if this user is that of "+plural(role), "with this user %s may not %s", plural(role), strings.Join(lacks, ", nor "))
	}
	if key := e.Link.Prefix + "policy.service"; may.Publish.allows(key) && may.Publish.allows(e.Link.Live+"policy.service") {
		e.add("permissions", OK, "", "this user may write policies")
	} else if may.Publish.allows(key) {
		e.add("permissions", Warning, "allow this user to publish to "+e.Link.Live+"policy.>, or deny it "+e.Link.Prefix+"policy.>", "this user may write policies, and callers see them 20 s later")
	}
	if live := e.Link.Live + "inst.service.region.zone.id"; may.Publish.allows(live) {
		e.add("permissions", Warning, "deny it to every user: only the server publishes there", "this user may publish to %s: it could make callers believe what is not true", live)
	}
}

// tries reads and writes as programs do. The write is one that the server must refuse.
func (e *examination) tries(ctx context.Context) {
	reading, cancel := e.patience(ctx)
	defer cancel()
	if _, err := e.Link.LastMsg(reading, e.Link.Prefix+"none"); err != nil && !errors.Is(err, wire.ErrNotFound) {
		e.add("reading", Error, "allow this user to publish to "+e.Link.Direct+", and see whether the servers with copies run", "%v", err)
	} else {
		e.add("reading", OK, "", "records can be read")
	}
	writing, cancel := e.patience(ctx)
	defer cancel()
	subject := e.Link.Prefix + "inst._._._._" // no service has that name
	_, err := e.Link.Publish(writing, &nats.Msg{Subject: subject}, jetstream.WithExpectLastSequencePerSubject(1))
	switch {
	case errors.Is(err, wire.ErrFenced):
		e.add("writing", OK, "", "the leader answers writes: it refused one that had to be refused")
	case errors.Is(err, nats.ErrPermissionViolation):
		e.add("writing", Warning, "allow this user to publish to "+e.Link.Prefix+"> if it is that of an announcer or router", "this user may not write: %v", err)
	case err != nil:
		e.add("writing", Error, "see whether the stream has a leader, and its server room on disk", "%v", err)
	default:
		e.add("writing", Error, "report this", "the server stored a message on %s that it should have refused", subject)
	}
}

func plural(role string) string { return role + "s" }
