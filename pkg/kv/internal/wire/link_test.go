package wire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// nats.go names a full buffer when the connection is lost between the look at it and the
// request.
func TestARequestWithoutAConnectionSaysSo(t *testing.T) {
	l := wire.Link{Conn: new(nats.Conn)}
	err := l.Explain("x", nats.ErrReconnectBufExceeded)
	if !strings.Contains(err.Error(), "not connected to NATS") || !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Error(err)
	}
	if err := l.Explain("x", nats.ErrTimeout); !errors.Is(err, nats.ErrTimeout) || strings.Contains(err.Error(), "connected") {
		t.Error(err)
	}
}
