package tail

import (
	"testing"
	"testing/synctest"
	"time"
)

// A change that is heard before the first question asks for a check of it, some
// seconds later. The first read must not wait for that.
func TestAChangeHeardDoesNotPutOffTheFirstRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t)
		w := &tail{group: r.group, from: r.from, view: r.view, reader: r, staleness: r.staleness}
		w.listen(record("a", 1, "1"))
		if r.view.Newest() != 1 {
			t.Fatal("the change was not heard")
		}
		select {
		case <-r.due.C:
		case <-time.After(settle):
			t.Error("the first read is put off")
		}
	})
}
