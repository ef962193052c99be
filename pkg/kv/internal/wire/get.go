package wire

import (
	"strings"

	"github.com/nats-io/nats.go"
)

// Get asks for messages of the stream directly, from any copy of it.
type Get struct {
	Seq     uint64 `json:"seq,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
	Batch   int    `json:"batch,omitempty"`

	MultiLast []string `json:"multi_last,omitempty"`
}

// Status says what a message that is none of the stream's says.
func Status(msg *nats.Msg) string {
	return strings.TrimSpace("status " + msg.Header.Get(HdrStatus) + " " + msg.Header.Get(HdrDescription))
}
