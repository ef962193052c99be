package announcing

import (
	"bytes"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

var listed = events.Instance{
	Service: "user", ID: "user-1", Endpoints: map[string]string{"http": "h:80", "grpc": "h:90"},
	Location: topology.Location{Region: "r", Zone: "a"},
}

func TestTheBoardLogsEveryChangeOnce(t *testing.T) {
	refused, away := errors.New("refused"), errors.New("away")
	for _, tt := range []struct {
		name   string
		states []kv.State
		want   []string
	}{
		{
			"registered, draining, deregistered",
			[]kv.State{
				{Phase: kv.Registering, Status: events.Up},
				{Phase: kv.Registered, Status: events.Up, Revision: 1},
				{Phase: kv.Registered, Status: events.Up, Revision: 2}, // the record was rewritten
				{Phase: kv.Draining, Status: events.Draining, Revision: 3},
				{Phase: kv.Left, Status: events.Draining},
			},
			[]string{"INFO registered", "INFO draining", "INFO deregistered"},
		},
		{
			"an outage that the lease does not survive",
			[]kv.State{
				{Phase: kv.Registered, Status: events.Up, Revision: 1},
				{Phase: kv.Registered, Status: events.Up, Revision: 1, Err: away},
				{Phase: kv.Registered, Status: events.Up, Revision: 1, Err: away, Lapsed: true},
				{Phase: kv.Registered, Status: events.Up, Revision: 1, Err: away, Lapsed: true},
				{Phase: kv.Registered, Status: events.Up, Revision: 1},
			},
			[]string{
				"INFO registered", "WARN the lease is not renewed, retrying",
				"ERROR the lease was not renewed for longer than its ttl: callers may have lost the instance", "INFO the announcement works again",
			},
		},
		{
			"a check that passes late, fails, and passes again",
			[]kv.State{
				{Phase: kv.Checking, Status: events.Up, Err: refused},
				{Phase: kv.Checking, Status: events.Up, Err: errors.New("refused")},
				{Phase: kv.Checking, Status: events.Up, Err: away},
				{Phase: kv.Registered, Status: events.Up, Revision: 1},
				{Phase: kv.Registered, Status: events.NotReady, Revision: 2},
				{Phase: kv.Registered, Status: events.Up, Revision: 3},
			},
			[]string{
				"INFO waiting for the check to pass", "INFO waiting for the check to pass",
				"INFO registered", "WARN not ready: callers avoid the instance", "INFO status changed",
			},
		},
		{
			"an outage that the lease survives",
			[]kv.State{
				{Phase: kv.Registered, Status: events.Up, Revision: 1},
				{Phase: kv.Registered, Status: events.Up, Revision: 1, Err: away},
				{Phase: kv.Registered, Status: events.Up, Revision: 1},
			},
			[]string{"INFO registered", "WARN the lease is not renewed, retrying", "INFO the announcement works again"},
		},
		{
			"an outage that it does not survive",
			[]kv.State{
				{Phase: kv.Registered, Status: events.Up, Revision: 1},
				{Phase: kv.Registering, Status: events.Up, Err: away},
				{Phase: kv.Registered, Status: events.Up, Revision: 7},
			},
			[]string{"INFO registered", "WARN lost the registration", "WARN not registered, retrying", "INFO registered again"},
		},
		{
			"another with the same id",
			[]kv.State{
				{Phase: kv.Conflict, Status: events.Up, Err: kv.ErrConflict},
				{Phase: kv.Registered, Status: events.Up, Revision: 1},
				{Phase: kv.Replaced, Status: events.Up, Err: kv.ErrConflict},
			},
			[]string{
				"ERROR not registered: another live instance has this id, give each one its own (--id)", "INFO registered",
				"ERROR not registered any more: a newer instance has taken this id",
			},
		},
		{
			"leaving before it was registered",
			[]kv.State{{Phase: kv.Left, Status: events.Up}},
			nil,
		},
		{
			"leaving without an answer of the registry",
			[]kv.State{
				{Phase: kv.Registered, Status: events.Up, Revision: 1},
				{Phase: kv.Left, Status: events.Up, Err: away},
			},
			[]string{"INFO registered", "WARN not deregistered, its lease ends by itself"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			b := NewBoard(slog.New(slog.NewTextHandler(&out, nil)))
			b.add(&listed, map[topology.Level]string{topology.Zone: "flags"})
			for _, s := range tt.states {
				s.Service, s.Instance = "user", "user-1"
				b.onState(listed.Key(), s)
			}
			var got []string
			for line := range strings.Lines(out.String()) {
				if !strings.Contains(line, "service=user instance=user-1 endpoints=\"grpc=h:90,http=h:80\" location=r/a zone_by=flags") {
					t.Errorf("a line lacks the attributes of the instance: %s", line)
				}
				found := regexp.MustCompile(`level=(\S+) msg=("[^"]*"|\S+)`).FindStringSubmatch(line)
				got = append(got, found[1]+" "+strings.Trim(found[2], `"`))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheBoardNamesWhatIsNotRegistered(t *testing.T) {
	b := NewBoard(slog.New(slog.DiscardHandler))
	key := func(id string) events.Key { return events.Key{Service: "user", Region: "r", Zone: "a", ID: id} }
	state := func(id string, phase kv.Phase, err error) {
		b.onState(key(id), kv.State{Service: "user", Instance: id, Phase: phase, Err: err})
	}
	wants := func(want string) {
		t.Helper()
		got := ""
		if err := b.Ready(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("ready returns %q, want %q", got, want)
		}
	}
	wants("")
	state("user-1", kv.Conflict, nil) // of an announcement that is not on the board any more
	wants("")
	for _, id := range []string{"user-1", "user-2"} {
		in := listed
		in.ID = id
		b.add(&in, nil)
	}
	wants("2 of 2 not registered: user/user-1: checking; user/user-2: checking")
	state("user-1", kv.Registered, nil)
	state("user-2", kv.Checking, errors.New("refused"))
	wants("1 of 2 not registered: user/user-2: checking: refused")
	state("user-2", kv.Registered, errors.New("the lease was not renewed lately"))
	wants("")
	b.onState(key("user-2"), kv.State{Phase: kv.Registered, Err: errors.New("no server"), Lapsed: true})
	wants("1 of 2 not registered: user/user-2: the lease was not renewed for longer than its ttl: no server")
	state("user-2", kv.Registered, nil)
	state("user-1", kv.Draining, nil)
	wants("1 of 2 not registered: user/user-1: draining")
	b.remove(key("user-1"))
	wants("")
	b.Fail(errors.New("no JetStream"))
	wants("no JetStream")
	b.Fail(nil)
	wants("")
}

func TestLinesWithAPhaseAreDebugLines(t *testing.T) {
	for level, want := range map[slog.Level]string{
		slog.LevelInfo:  "WARN check fails\n",
		slog.LevelDebug: "DEBUG changed\nWARN check fails\n",
	} {
		var out bytes.Buffer
		log := slog.New(withoutPhases{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})})
		log = log.With("service", "user").WithGroup("g")
		log.Info("changed", "error", nil, "phase", kv.Registered)
		log.Warn("check fails", "error", "refused")
		got := regexp.MustCompile(`(?m)^time=\S+ level=(\S+) msg="?([^"=]*?)"? service=user .*$`).ReplaceAllString(out.String(), "$1 $2")
		if got != want {
			t.Errorf("at %v: %q, want %q", level, got, want)
		}
	}
}
