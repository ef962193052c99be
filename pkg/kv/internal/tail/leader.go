package tail

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// needsLeader reports whether the next read needs to know how far the stream is.
// Without permission to ask the leader, or without a leader for 45 s, two reads
// that agree are believed.
func (r *reader) needsLeader() bool {
	if r.doubted.IsZero() || r.view.Trusted() {
		return false
	}
	if time.Since(r.doubted) < leaderTimeout {
		return true
	}
	r.view.Trust(0)
	return false
}

// leaderAnswered takes in the newest message that the leader has, and reads.
func (r *reader) leaderAnswered(msg *nats.Msg) {
	if msg.Header.Get(wire.HdrStatus) != "" {
		r.refused(cmp.Or(r.get.Answer(msg), wire.ErrUnavailable))
		return
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq uint64 `json:"seq"`
		} `json:"message"`
	}
	err := json.Unmarshal(msg.Data, &answer)
	switch {
	case err != nil:
	case answer.Error == nil, answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
	case answer.Error.ErrorCode == jetstream.JSErrCodeStreamNotFound:
		r.failed(r.noBucket())
		return
	default:
		err = answer.Error
	}
	if err != nil {
		r.failed(fmt.Errorf("%w: %w", wire.ErrUnavailable, err))
		return
	}
	r.doubted, r.retries = time.Now(), 0
	r.view.Trust(answer.Message.Seq)
	r.startRead(true)
	r.askPage()
}
