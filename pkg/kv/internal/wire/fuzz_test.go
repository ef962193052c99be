package wire

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

const body = `{"id":"a","service":"user","incarnation":"x","endpoints":{"http":"10.0.0.5:8080"},"location":{"region":"r","zone":"z"},"status":"up","weight":100,"ttl":"15s"}`

func FuzzParse(f *testing.F) {
	stamps := "Nats-Stream: KV_proxima\r\nNats-Subject: $KV.proxima.inst.user.r.z.a\r\nNats-Sequence: 7\r\nNats-Time-Stamp: 2026-11-21T08:00:00.123456789Z\r\n"
	for _, h := range []string{
		"", "NATS/1.0\r\n\r\n", "NATS/1.0 503\r\n\r\n",
		"NATS/1.0\r\n" + stamps + "\r\n",
		"NATS/1.0\r\n" + stamps + "Nats-Last-Sequence: 6\r\n\r\n",
		"NATS/1.0\r\nKV-Operation: PURGE\r\nNats-Scheduler: $KV.proxima.lease.user.r.z.a\r\n" + stamps + "\r\n",
		"NATS/1.0\r\nKV-Operation: PURGE\r\nNats-Scheduler: $KV.proxima.lease.user.r.z.b\r\n" + stamps + "\r\n",
		"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n" + stamps + "\r\n",
		"NATS/1.0\r\nNats-Subject: x\r\nNats-Sequence: -1\r\nNats-Sequence: 99999999999999999999\r\n\r\n",
		"NATS/1.0\r\nno colon\r\n\r\n",
	} {
		for _, data := range []string{"", "{", body, strings.Repeat(`{"a":`, 100), `{"reason":"expired"}`} {
			f.Add([]byte(h), []byte(data))
		}
	}
	b := NewBucket("proxima", "proxima", "$JS.API.")
	f.Fuzz(func(t *testing.T, header, data []byte) {
		msg := &nats.Msg{Data: data}
		if len(header) > 0 {
			msg.Header, _ = nats.DecodeHeadersMsg(header) // nil when it cannot be read, as nats.go has it
		}
		c, err := b.Parse(msg)
		if errors.Is(err, ErrFrame) {
			return
		}
		if e := c.Key.Validate(); e != nil {
			t.Fatalf("a key is taken: %v", e)
		}
		if c.Seq == 0 || b.Prefix+c.Key.Inst() != Stamp(msg.Header, HdrSubject) || !Stored(msg) {
			t.Fatalf("%+v from %q", c, header)
		}
		if c.Name != c.Key.String() {
			t.Fatalf("the name of %s is %q", c.Key, c.Name)
		}
		if c.Err != nil || c.Instance == nil {
			return
		}
		if e := c.Instance.Validate(); e != nil || c.Instance.Key() != c.Key || len(msg.Header[HdrScheduler]) > 0 {
			t.Fatalf("an instance is taken: %+v, %v", c.Instance, e)
		}
	})
}
