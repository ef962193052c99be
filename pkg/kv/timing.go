package kv

import (
	"time"
)

const (
	settle        = 100 * time.Millisecond
	maxRetry      = 5 * time.Second
	checkEvery    = 20 * time.Second
	snapshotEvery = 5 * time.Minute
	heardOrders   = 256
)
