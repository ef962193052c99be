//go:build faults

// Package garbage is about a hostile writer: one who may publish whatever he
// likes, where he likes, and harms nobody but himself.
package garbage

import (
	"testing"

	"github.com/proxima-discovery/proxima/internal/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }
