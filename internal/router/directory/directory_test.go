package directory_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

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
		d := directory.New(r, "proxima", "")
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
