package selector

import (
	"fmt"
	"slices"
	"strings"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// Strategy chooses among the instances of a near set.
type Strategy string

// The strategies.
const (
	// P2C draws two at random and takes the one with less load: calls in
	// flight times their average duration, by weight. (Mitzenmacher, The
	// Power of Two Choices in Randomized Load Balancing, 2001.)
	P2C Strategy = "p2c"
	// Nearest takes the one at the least distance.
	Nearest Strategy = "nearest"
	// RoundRobin takes one after the other.
	RoundRobin Strategy = "round_robin"
	// WeightedRoundRobin takes one after the other, each in proportion to
	// its weight and evenly spread in time.
	WeightedRoundRobin Strategy = "weighted_round_robin"
	// Random draws one.
	Random Strategy = "random"
	// LeastRequest draws two at random and takes the one with fewer calls in
	// flight, by weight.
	LeastRequest Strategy = "least_request"
	// ConsistentHash takes the same one for the same [Request.Key] for as
	// long as it is there and not much busier than the others.
	ConsistentHash Strategy = "consistent_hash"
	// LoadAware draws two at random and takes the one that has more to spare
	// by its own word: 0.4 (1-cpu) + 0.4 (1-memory) + 0.2 / (1+queue), from the
	// beats that instances send. When that is about equal, or one of them has not
	// been heard for 15 s, it is P2C that decides.
	LoadAware Strategy = "load_aware"
)

// Strategies returns all strategies.
func Strategies() []Strategy {
	all := make([]Strategy, 0, len(table.KindNames))
	for _, name := range table.KindNames {
		all = append(all, Strategy(name))
	}
	return all
}

// ParseStrategy checks a name given by a user.
func ParseStrategy(name string) (Strategy, error) {
	if s := Strategy(name); slices.Contains(Strategies(), s) {
		return s, nil
	}
	var names []string
	for _, s := range Strategies() {
		names = append(names, string(s))
	}
	return "", fmt.Errorf("selector: strategy %q, want one of %s", name, strings.Join(names, ", "))
}
