package latency_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
)

// ear hands what a prober listens with to a test.
type ear struct {
	handle func(subject string, data []byte, age time.Duration)
	answer []byte
}

func (e *ear) Subscribe(_ context.Context, _ string, handle func(string, []byte, time.Duration)) (func(), error) {
	e.handle = handle
	return func() {}, nil
}

func (*ear) Publish(string, []byte) error { return nil }

func (e *ear) Request(context.Context, string, []byte) ([]byte, error) { return e.answer, nil }

// Whatever a reporter publishes, estimates stay in bounds, and an invalid batch
// changes none.
func FuzzHear(f *testing.F) {
	const subject = "latency.r.a.user.c1"
	sample := `{"id":"i0","incarnation":"1","rtt_us":1500,"count":3,"age_ms":20}`
	place := `{"vec":[0.01,-0.02,0,0,0,0,0,0],"error":0.3,"adjustment":0,"height":0.001}`
	f.Add(subject, []byte(`{"seq":1,"samples":[`+sample+`]}`), uint16(0), []byte(place))
	f.Add(subject, []byte(`{"seq":1,"coordinate":`+place+`,"samples":[`+sample+`,`+sample+`]}`), uint16(60000), []byte(place))
	f.Add(subject, []byte(`{"seq":18446744073709551615,"leaving":true,"samples":null}`), uint16(1), []byte("null"))
	f.Add(subject, []byte(`{"seq":1,"samples":[{"id":"i0","incarnation":"1","rtt_us":0.001,"count":1,"age_ms":3600000}]}`), uint16(65535), []byte(`{"vec":[10,10,10,10,10,10,10,10],"height":10,"error":0}`))
	f.Add("latency.r.b.user.c1", []byte(`{"seq":1,"samples":[`+sample+`]}`), uint16(0), []byte("x"))
	f.Add("latency.r.a.user.>", []byte("\x00"), uint16(0), []byte{})
	f.Add("", []byte(""), uint16(0), []byte("[]"))
	f.Fuzz(func(t *testing.T, subject string, data []byte, age uint16, answer []byte) {
		synctest.Test(t, func(t *testing.T) {
			e := &ear{answer: answer}
			p := start(t, newNetwork(5*time.Millisecond), latency.Options{}, latency.Caller{Bus: e, Location: zoneA, Reporter: "me"})
			if err := p.group("user").Share(t.Context()); err != nil {
				t.Fatal(err)
			}
			all := []*latency.Path{p.Path(target(0)), p.Path(target(1))}
			p.group("user").Set(members(all...))
			for i := range 3 {
				if i == 2 {
					all = append(all, p.Path(target(2))) // it was spoken of before
					p.group("user").Set(members(all...))
				}
				e.handle(subject, data, time.Duration(age)*time.Millisecond)
				for _, pa := range all {
					switch est := pa.Estimate(time.Second); {
					case est.Distance <= 0 || est.Distance > 10*time.Second:
						t.Fatalf("an estimate of %v", est)
					case i > 0 && p.Counts().Rejected > 0 && est.Source == latency.SourceShared && len(data) == 0:
						t.Fatalf("%v of nothing", est)
					}
				}
				time.Sleep(10 * time.Second)
			}
			if c, ok := p.Coordinate(); ok && c.Validate() != nil {
				t.Fatalf("Coordinate() = %v: %v", c, c.Validate())
			}
		})
	})
}

// Batches of as many samples as fit, of instances that are made up.
func BenchmarkHearMadeUp(b *testing.B) {
	e := &ear{}
	p := start(b, newNetwork(silent), latency.Options{}, latency.Caller{Bus: e, Location: zoneA, Reporter: "me"})
	if err := p.group("user").Share(b.Context()); err != nil {
		b.Fatal(err)
	}
	var batches [64][]byte
	for i := range batches {
		batch := wire.Batch{Sequence: 1}
		for k := range 400 {
			batch.Samples = append(batch.Samples, wire.Sample{ID: fmt.Sprintf("made-up-%d-%d", i, k), Incarnation: "1", RTT: time.Millisecond, Count: 1})
		}
		data, err := wire.EncodeBatch(batch)
		if err != nil {
			b.Fatal(err)
		}
		batches[i] = data
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		e.handle(fmt.Sprintf("latency.r.a.user.liar-%d", i%400), slices.Replace(slices.Clone(batches[i%64]), 0, 8, []byte(fmt.Sprintf(`{"seq":%d`, i+1))...), 0)
	}
}

// A batch of 64 samples of instances that are known, as it comes in.
func BenchmarkHear(b *testing.B) {
	e := &ear{}
	p := start(b, newNetwork(silent), latency.Options{}, latency.Caller{Bus: e, Location: zoneA, Reporter: "me"})
	if err := p.group("user").Share(b.Context()); err != nil {
		b.Fatal(err)
	}
	p.group("user").Set(members(makePaths(p, 64)...))
	var batches [][]byte
	for seq := range 1000 {
		batch := wire.Batch{Sequence: uint64(1 + seq)}
		for i := range 64 {
			batch.Samples = append(batch.Samples, wire.Sample{
				ID: fmt.Sprintf("i%d", i), Incarnation: "1", Count: 3,
				RTT: 20*time.Millisecond + time.Duration(seq*i)*time.Nanosecond,
			})
		}
		data, err := wire.EncodeBatch(batch)
		if err != nil {
			b.Fatal(err)
		}
		batches = append(batches, data)
	}
	b.ReportAllocs()
	reporters, i := 0, 0
	for b.Loop() {
		if i%1000 == 0 {
			reporters++ // sequences start anew
		}
		e.handle(fmt.Sprintf("latency.r.a.user.c%d", reporters), batches[i%1000], 0)
		i++
	}
	if p.Counts().Rejected > 0 {
		b.Errorf("%d batches or samples rejected", p.Counts().Rejected)
	}
}
