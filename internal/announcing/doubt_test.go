package announcing

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func entries(ids string) (all []*Entry) {
	for id := range strings.FieldsSeq(ids) {
		all = append(all, &Entry{Instance: events.Instance{Service: "user", ID: id}})
	}
	return all
}

func TestALossOfMostInstancesIsDoubted(t *testing.T) {
	type step struct {
		after  time.Duration
		stated string
		want   string
		held   int
	}
	for _, tt := range []struct {
		name  string
		off   bool
		steps []step
	}{
		{"all, once", false, []step{{0, "a b c", "a b c", 0}, {5 * time.Second, "", "a b c", 3}, {time.Hour, "a b c", "a b c", 0}}},
		{"all, said twice", false, []step{{0, "a b c", "a b c", 0}, {5 * time.Second, "", "a b c", 3}, {time.Second, "", "", 0}}},
		{"all, said twice in haste", false, []step{{0, "a b c", "a b c", 0}, {0, "", "a b c", 3}, {time.Millisecond, "", "a b c", 3}, {time.Second, "", "", 0}}},
		{"the only one", false, []step{{0, "a", "a", 0}, {0, "", "a", 1}, {time.Second, "", "", 0}}},
		{"two of three", false, []step{{0, "a b c", "a b c", 0}, {0, "b", "a b c", 2}, {time.Second, "b", "b", 0}}},
		{"half", false, []step{{0, "a b c d", "a b c d", 0}, {0, "a b", "a b", 0}}},
		{"half, and another half later", false, []step{{0, "a b c d", "a b c d", 0}, {0, "a b", "a b", 0}, {0, "a", "a", 0}}},
		{"most, while others come", false, []step{{0, "a b c", "a b c", 0}, {0, "c d e f", "a b c d e f", 2}, {time.Second, "c d e f", "c d e f", 0}}},
		{"one of those held comes back", false, []step{{0, "a b c", "a b c", 0}, {0, "", "a b c", 3}, {2 * time.Second, "a", "a", 0}}},
		{"one more goes while others are held", false, []step{{0, "a b c d e", "a b c d e", 0}, {0, "d e", "a b c d e", 3}, {0, "d", "a b c d", 3}, {time.Second, "d", "d", 0}}},
		{"all others go while some are held", false, []step{{0, "a b c", "a b c", 0}, {0, "c", "a b c", 2}, {time.Second, "", "c", 1}, {time.Second, "", "", 0}}},
		{"off", true, []step{{0, "a b c", "a b c", 0}, {0, "", "", 0}}},
		{"the first statement is empty", false, []step{{0, "", "", 0}, {0, "a", "a", 0}}},
	} {
		d := Doubt{Off: tt.off}
		now := time.Now()
		for i, s := range tt.steps {
			now = now.Add(s.after)
			apply, held := d.Take(entries(s.stated), now)
			var got []string
			for _, e := range apply {
				got = append(got, e.Instance.ID)
			}
			slices.Sort(got)
			if strings.Join(got, " ") != s.want || held != s.held {
				t.Errorf("%s, step %d: %v, %d held, want %s, %d held", tt.name, i+1, got, held, s.want, s.held)
			}
		}
	}
}
