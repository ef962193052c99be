package documents_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/documents"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// both are the buckets of a region, and what is kept in them.
func both[T any](family documents.Family[T]) (own, others wire.Bucket, c *documents.Collection[T]) {
	own, others = wire.NewBucket("proxima", "proxima", "$JS.API."), wire.NewBucket("proxima_us", "proxima", "$JS.API.")
	return own, others, documents.NewCollection(family, &wire.Link{Bucket: own}, []*wire.Bucket{&own, &others}, true)
}

// message is one as a bucket hands it out.
func message(b *wire.Bucket, key, data string, stored time.Time, header ...string) *nats.Msg {
	msg := &nats.Msg{Data: []byte(data), Header: nats.Header{
		"Nats-Subject": {b.Prefix + key}, "Nats-Stream": {b.Stream}, "Nats-Sequence": {"7"}, "Nats-Time-Stamp": {stored.Format(time.RFC3339Nano)},
	}}
	for i := 0; i+1 < len(header); i += 2 {
		msg.Header.Set(header[i], header[i+1])
	}
	return msg
}

// Whatever the order in which regions hear of documents: they agree.
func TestTheOrderOfArrivalDoesNotMatter(t *testing.T) {
	own, others, c := both(documents.Policies)
	base := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		count := 2 + random.IntN(4)
		made := make([]func() (string, []string), count)
		for i := range made {
			at, kind, n := base.Add(time.Duration(random.IntN(3))*time.Millisecond), random.IntN(4), random.IntN(3)
			made[i] = func() (string, []string) {
				header := []string{"Proxima-At", at.Format(time.RFC3339Nano)}
				switch kind {
				case 0:
					return "", append(header, "KV-Operation", "PURGE")
				case 1: // another tool
					return fmt.Sprintf(`{"timeout":"%ds"}`, n+1), nil
				case 2:
					return "garbage", header
				}
				return fmt.Sprintf(`{"timeout":"%ds"}`, n+1), header
			}
		}
		result := ""
		for round := range 5 {
			order := random.Perm(count)
			// Each region stores at times of its own, and one of them is its own.
			docs := make([]*nats.Msg, count)
			for at, i := range order {
				stored := base.Add(time.Duration(at) * time.Second)
				data, header := made[i]()
				b, key := &others, "policy.eu.user"
				if i == round%count {
					b, key = &own, "policy.user"
				}
				docs[at] = message(b, key, data, stored, header...)
			}
			was, err := c.Parse(bucketOf(docs[0], &own, &others), docs[0])
			if err != nil {
				t.Fatal(err)
			}
			for _, msg := range docs[1:] {
				is, err := c.Parse(bucketOf(msg, &own, &others), msg)
				if err != nil {
					t.Fatal(err)
				}
				was = c.Add(was, is)
			}
			last := fmt.Sprint(was.Good, was.Removed, string(was.Data))
			if round == 0 {
				result = last
			} else if last != result {
				t.Fatalf("%s, and in another order %s", result, last)
			}
		}
	}
}

func bucketOf(msg *nats.Msg, own, others *wire.Bucket) *wire.Bucket {
	if strings.HasPrefix(msg.Header.Get("Nats-Subject"), own.Prefix) {
		return own
	}
	return others
}

func FuzzParse(f *testing.F) {
	own, others, policies := both(documents.Policies)
	_, _, evacuations := both(documents.Evacuations)
	for _, key := range []string{"policy.user", "policy._default", "policy.eu.user", "policy.", "evacuate.eu.a", "evacuate.us.eu", "inst.user.a.b.c"} {
		for _, data := range []string{`{"strategy":"p2c"}`, `{"evacuated":true,"at":"2026-11-21T08:00:00Z"}`, "{", ""} {
			f.Add(key, data, "Proxima-At", "2026-11-21T08:00:00Z", "2026-11-21T08:00:00Z")
			f.Add(key, data, "KV-Operation", "PURGE", "2026-11-21T08:00:00Z")
			f.Add(key, data, "Nats-Scheduler", "x", "yesterday")
		}
	}
	f.Fuzz(func(t *testing.T, key, data, name, value, stored string) {
		for _, b := range []*wire.Bucket{&own, &others} {
			msg := message(b, key, data, time.Time{}, name, value)
			msg.Header["Nats-Time-Stamp"] = []string{stored}
			p, err := policies.Parse(b, msg)
			if err == nil && (p.Good != (p.Value != nil) || p.Good && p.Removed || p.Unreadable != nil && p.Good || documents.Policies.Check(p.Key) != nil) {
				t.Errorf("%+v", p)
			}
			if err == nil && name == "Nats-Scheduler" {
				t.Errorf("a schedule has written %+v", p)
			}
			e, err := evacuations.Parse(b, msg)
			if err == nil && e.Good && (e.Value.Key() != e.Key || !e.At.Equal(e.Value.At)) {
				t.Errorf("%+v", e)
			}
		}
	})
}
