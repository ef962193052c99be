package directory_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// registry sends the snapshots of a test. It lists first when it is read.
type registry struct {
	first []events.Snapshot
	sent  chan events.Snapshot
}

func (r *registry) Watch(ctx context.Context, _ string, apply func(events.Snapshot)) error {
	for _, s := range r.first {
		apply(s)
	}
	for {
		select {
		case s := <-r.sent:
			apply(s)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *registry) Snapshot(context.Context, string) ([]events.Snapshot, error) { return r.first, nil }

func TestARecordIsAsOldAsItsRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		snapshot := func(revision uint64, evacuated bool) events.Snapshot {
			in := &events.Instance{Service: "user", ID: "u"}
			return events.Snapshot{Service: "user", Entries: []events.Entry{{Instance: in, Revision: revision, Evacuated: evacuated}}}
		}
		r := &registry{first: []events.Snapshot{snapshot(1, false)}, sent: make(chan events.Snapshot)}
		d := directory.New(r, "")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = d.Run(ctx) }()
		<-d.Complete()
		began := d.Find("user", "u")[0].Since

		time.Sleep(time.Minute)
		r.sent <- snapshot(1, true) // an order to evacuate is no new record
		synctest.Wait()
		if got := d.Find("user", "u")[0]; !got.Evacuated || !got.Old || !got.Since.Equal(began) {
			t.Errorf("evacuated after a minute: %+v, want it as old as before", got)
		}
		r.sent <- snapshot(2, true)
		synctest.Wait()
		if got := d.Find("user", "u")[0]; got.Old || !got.Since.Equal(time.Now()) {
			t.Errorf("written again: %+v, want it new", got)
		}
		cancel()
		<-ended
	})
}

// entries is a snapshot of the service user.
func entries(all ...events.Entry) events.Snapshot {
	return events.Snapshot{Service: "user", Entries: all}
}

func TestChangesHaveTheirKindsAndReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &events.Instance{Service: "user", ID: "u", Incarnation: "i"}
		key := in.Key()
		plain := events.Entry{Instance: in, Revision: 1}
		left := func(all ...events.Departure) events.Snapshot { return events.Snapshot{Service: "user", Left: all} }
		r := &registry{first: []events.Snapshot{entries(plain)}, sent: make(chan events.Snapshot)}
		var got []string
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- directory.Follow(ctx, r, "user", func(c directory.Change) error {
				got = append(got, strings.TrimSpace(fmt.Sprint(c.Kind, " ", strings.Join(c.Fields, ","))))
				if c.Suspect || c.Evacuated {
					got[len(got)-1] += fmt.Sprint(" ", c.Suspect, " ", c.Evacuated)
				}
				return nil
			})
		}()
		time.Sleep(time.Second) // the first view is complete
		for _, s := range []events.Snapshot{
			entries(events.Entry{Instance: in, Revision: 1, Suspect: true}),
			entries(plain),
			entries(events.Entry{Instance: in, Revision: 1, Evacuated: true}),
			entries(plain),
			left(),
			entries(plain),
			left(events.Departure{Key: key, Incarnation: "i", Reason: events.ReasonDeregistered}),
			entries(plain),
			left(events.Departure{Key: key, Incarnation: "i", Reason: events.ReasonDeregistered}, events.Departure{Key: key, Incarnation: "i", Reason: events.ReasonExpired}),
			entries(plain),
			left(events.Departure{Key: key, Incarnation: "i", Reason: events.ReasonExpired}, events.Departure{Key: key, Incarnation: "i"}),
			entries(plain),
			left(events.Departure{Key: key, Incarnation: "an earlier life", Reason: events.ReasonExpired}),
		} {
			r.sent <- s
			synctest.Wait()
		}
		want := []string{
			"listed", "suspect suspect true false", "updated suspect", "updated evacuated false true", "updated evacuated",
			"removed", "registered", "deregistered", "registered", "expired", "registered", "removed", "registered", "removed",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestFollowReturnsTheErrorOfItsFunction(t *testing.T) {
	r := &registry{first: []events.Snapshot{entries(events.Entry{Instance: &events.Instance{Service: "user", ID: "u"}})}}
	enough := errors.New("enough")
	err := directory.Follow(t.Context(), r, "", func(directory.Change) error { return enough })
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}
