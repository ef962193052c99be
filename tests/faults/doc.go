// Package faults breaks real NATS servers under real announcers and callers,
// and checks that no caller loses a living instance.
//
// A case reads like a story. A [World] is a cluster, instances that are
// announced, and callers that watch and pick all the time; the case says what
// happens to them:
//
//	w := faults.Start(t, faults.Options{})
//	w.Announce(50, 15*time.Second)
//	w.Callers(6)
//	w.Case("the leader of the stream is killed", faults.Bounds{}, func() {
//		leader := w.Leader()
//		w.Kill(leader)
//		w.Pass(10 * time.Second)
//		w.Restart(leader)
//	})
//
// What must hold whatever happens, the [Recorder] checks in every case:
//
//   - revisions of a record never go back, except when the story says that the
//     stream began a new life;
//   - a change that was acknowledged is seen by every caller, within
//     [Bounds].Blind;
//   - a living instance stays in every view and in every selector that once knew
//     it;
//   - a pick never fails while an instance lives;
//   - a dead instance is neither listed, except as a suspect, nor picked from
//     ttl + 1 s after its death on, or after the fault had ended;
//   - a view whose registry is out of reach says so;
//   - what a caller started has ended when it is closed: goroutines and
//     subscriptions; and there are no consumers in the server.
//
// A case ends when every caller sees exactly the living instances, within [Bounds].Heal. Its
// figures and its timeline are in the test's log (go test -v).
//
// The cases themselves have the build tag faults: they need seconds of real
// time, and some of them root.
package faults
