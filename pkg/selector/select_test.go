package selector_test

import (
	"slices"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func sortEntries(entries []events.Entry) []events.Entry {
	slices.SortFunc(entries, func(a, b events.Entry) int { return a.Compare(b.Instance) })
	return entries
}
