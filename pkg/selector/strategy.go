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
	// P2C draws two at random, by weight, and takes the one with less load: calls in
	// flight times their average duration, divided by weight. (Mitzenmacher, The Power
	// of Two Choices in Randomized Load Balancing, 2001.)
	P2C Strategy = "p2c"
	// Nearest takes the one at the least distance, whatever its weight.
	Nearest Strategy = "nearest"
	// RoundRobin takes one after the other, whatever their weights.
	RoundRobin Strategy = "round_robin"
	// WeightedRoundRobin takes one after the other, each in exact proportion to its
	// weight and evenly spread in time.
	WeightedRoundRobin Strategy = "weighted_round_robin"
	// Random draws one by weight.
	Random Strategy = "random"
	// LeastRequest draws two at random, by weight, and takes the one with fewer calls in
	// flight, divided by weight.
	LeastRequest Strategy = "least_request"
	// ConsistentHash takes the same instance for the same [Request.Key], as long as the
	// usable instances of the circle stay the same and that instance has at most 1.25
	// times its share of this caller's calls in flight. Keys are divided among the whole
	// circle, in proportion to weights, so all callers of a zone agree, whatever each of
	// them measures. The cost is distance: calls go to the farther instances of the circle
	// as often as to the nearest. [Near.Slack] bounds that where it is set, and then
	// callers differ about keys when an instance is at that bound. Callers in different
	// zones have different circles: for one instance per key everywhere, use an empty
	// Options.Levels. Spill.Regions makes a circle of each region outside the own one.
	ConsistentHash Strategy = "consistent_hash"
	// LoadAware draws two at random and takes the one with the higher score,
	// 0.4 (1-cpu) + 0.4 (1-memory) + 0.2 / (1+queue), from the load reports (beats) that
	// instances send on <bucket>.beat.<service>.>. If the scores are about equal, or one
	// is older than 15 s, P2C decides. Beats come on the connection given to [New];
	// without one LoadAware is P2C.
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
