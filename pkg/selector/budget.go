package selector

import (
	"sync"
	"time"
)

// budget bounds the retries of one service to a share of its calls, so that a
// service in trouble is not hit harder for it. Every call pays in share, every
// retry takes out 1; a reserve flows in all the time for those who call
// rarely. (As Finagle's RetryBudget.)
type budget struct {
	share float64

	mu     sync.Mutex
	tokens float64
	filled time.Duration
}

const (
	reserve   = 10  // retries a second that are always allowed
	maxTokens = 100 // what calm times can save up
)

func newBudget(share float64) budget {
	return budget{share: share, tokens: reserve}
}

// call pays in for one call.
func (b *budget) call() {
	if b.share <= 0 {
		return
	}
	b.mu.Lock()
	b.tokens = min(b.tokens+b.share, maxTokens)
	b.mu.Unlock()
}

// retry takes out one, and says whether there was one.
func (b *budget) retry(now time.Duration) bool {
	if b.share < 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if flow := (now - b.filled).Seconds() * reserve; flow > 0 && b.tokens < reserve {
		b.tokens = min(b.tokens+flow, reserve)
	}
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
