package cases

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/tests/load/sim"
)

// nearest calls the first instance.
type nearest struct{}

func (nearest) Pick(*sim.Call) int { return 0 }
func (nearest) Head(*sim.Call)     {}
func (nearest) End(*sim.Call)      {}

func pickNearest(*sim.Sim, Setup) sim.Picker { return nearest{} }

func TestAPickerThatNeverLeavesFailsWhereCallsMustLeave(t *testing.T) {
	var out, errs bytes.Buffer
	code := Main([]string{"-seeds", "1", "-case", "^20 callers, 800/s on 500, next (1.5|153) ms$"}, &out, &errs, pickNearest)
	if code != 1 || strings.Count(out.String(), "FAILS") != 2 || !strings.Contains(out.String(), "away % 0, want at least 37.5 and at most 56") {
		t.Errorf("exit %d:\n%s%s", code, out.String(), errs.String())
	}
}

func TestEveryCaseIsComplete(t *testing.T) {
	names := make(map[string]bool)
	for _, c := range All() {
		if names[c.Name] {
			t.Errorf("%s: twice", c.Name)
		}
		names[c.Name] = true
		if (len(c.Wants) == 0) != (c.Unsolved != "") {
			t.Errorf("%s: %d wants, unsolved: %q", c.Name, len(c.Wants), c.Unsolved)
		}
		w := c.World()
		for _, want := range c.Wants {
			if want.Window >= len(w.Windows) || want.Group > max(1, w.Groups) {
				t.Errorf("%s: no window %d or group %d", c.Name, want.Window, want.Group)
			}
		}
		for _, win := range w.Windows {
			if win.From >= win.To || win.To > w.End {
				t.Errorf("%s: window %v to %v, end %v", c.Name, win.From, win.To, w.End)
			}
		}
		if places := len(w.RTT); len(w.Servers) == 0 || len(w.Callers) == 0 || places == 0 {
			t.Errorf("%s: %d servers, %d callers, %d places", c.Name, len(w.Servers), len(w.Callers), places)
		}
	}
}

func TestSpread(t *testing.T) {
	s := spread([]float64{1, 2, 3, 4, 5})
	if s.Mean != 3 || s.Worst != 5 || s.Plus < 1.96 || s.Plus > 1.97 { // 2.78·√(2.5/5)
		t.Errorf("%+v", s)
	}
	if s := spread([]float64{7}); s != (Spread{Mean: 7, Worst: 7}) {
		t.Errorf("%+v", s)
	}
}

func TestRoundTripsBetweenPlaces(t *testing.T) {
	rtt := places(nextZone, north)
	for i := range rtt {
		for k := range rtt {
			if rtt[i][k] != rtt[k][i] || (i == k) != (rtt[i][k] == inZone) {
				t.Errorf("%d to %d: %v and %v", i, k, rtt[i][k], rtt[k][i])
			}
		}
	}
	if rtt[1][2] < 150*time.Millisecond {
		t.Errorf("%v", rtt)
	}
}
