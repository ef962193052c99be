package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// listed is what the bucket says of one key.
type listed struct {
	revision uint64
	ID       string
	Version  string
	Status   events.Status
}

// bucket reads all records as nats.go does, so that what Proxima reads is not
// compared with itself.
func bucket(ctx context.Context, nc *nats.Conn) (map[string]listed, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	store, err := js.KeyValue(ctx, kv.DefaultBucket)
	if err != nil {
		return nil, err
	}
	w, err := store.Watch(ctx, "inst.>", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Stop() }()
	all := map[string]listed{}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e := <-w.Updates():
			if e == nil {
				return all, nil
			}
			l := listed{revision: e.Revision()}
			if err := json.Unmarshal(e.Value(), &l); err != nil {
				return nil, fmt.Errorf("record %s: %w", e.Key(), err)
			}
			all[e.Key()] = l
		}
	}
}

// differences compares what a caller knows with the bucket, or with a service
// of it, entry by entry.
func differences(known map[string]events.Snapshot, all map[string]listed, service string) (wrong []string) {
	seen := 0
	for _, s := range known {
		if s.Stale && len(s.Entries) > 0 {
			wrong = append(wrong, s.Service+" is stale")
		}
		for _, e := range s.Entries {
			key := e.Key().Inst()
			switch l, ok := all[key]; {
			case !ok:
				wrong = append(wrong, key+" is not in the bucket")
			case l.revision != e.Revision:
				wrong = append(wrong, fmt.Sprintf("%s has revision %d, in the bucket %d", key, e.Revision, l.revision))
			case l.ID != e.ID || l.Version != e.Version || l.Status != e.Status:
				wrong = append(wrong, fmt.Sprintf("%s is %s, in the bucket %s", key, e.Version, l.Version))
			case e.Suspect:
				wrong = append(wrong, key+" is suspect")
			}
			seen++
		}
	}
	if missing := sizeOf(all, service) - seen; missing > 0 {
		wrong = append(wrong, fmt.Sprintf("%d records of the bucket are not known", missing))
	}
	return wrong
}

// sizeOf is how many records there are of a service, or in all if it is empty.
func sizeOf(all map[string]listed, service string) int {
	if service == "" {
		return len(all)
	}
	n := 0
	for key := range all {
		if strings.HasPrefix(key, "inst."+service+".") {
			n++
		}
	}
	return n
}
