package daemon

import (
	"context"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
)

func TestTheFirstSignalEndsTheContextAndOthersGoToAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		signals, again := make(chan os.Signal), make(chan os.Signal, 1)
		exits := 0
		go watchSignals(signals, cancel, again, func() { exits++ })

		if got := Interrupt(ctx); got != syscall.SIGTERM {
			t.Errorf("without a signal: %v", got)
		}
		signals <- os.Interrupt
		<-ctx.Done()
		if got := Interrupt(ctx); got != os.Interrupt {
			t.Errorf("first: %v", got)
		}
		signals <- syscall.SIGTERM
		if got := <-again; got != syscall.SIGTERM {
			t.Errorf("second: %v", got)
		}
		// The handler is gone: one signal is kept, the next ends the process.
		signals <- os.Interrupt
		synctest.Wait()
		if exits != 0 {
			t.Error("ended by a signal that could be read")
		}
		signals <- os.Interrupt
		synctest.Wait()
		if exits != 1 {
			t.Errorf("%d exits, want 1", exits)
		}
		close(signals)
	})
}
