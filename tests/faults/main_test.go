package faults_test

import (
	"testing"

	"github.com/proxima-discovery/proxima/internal/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }
