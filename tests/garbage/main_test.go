//go:build faults

// Package garbage is about a hostile writer: a client that may publish anything
// on any subject, and must not disturb other clients.
package garbage

import (
	"testing"

	"github.com/proxima-discovery/proxima/internal/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }
