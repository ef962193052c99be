package daemon

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// End is how a server ends, once it is asked to: for the time Drain it says that it is
// not ready and goes on serving, so that balancers and clients have time to see that;
// then it takes no new calls, and those that run may take the time Grace.
type End struct {
	Drain, Grace time.Duration
	// Hurry skips what is left of both when it is closed. Nil: nothing does.
	Hurry <-chan struct{}
}

// Phases returns two contexts. When ctx ends, closing ends after Drain, and cutting
// after Grace more. Release frees what they use; it ends neither.
func (e End) Phases(ctx context.Context) (closing, cutting context.Context, release func()) {
	base := context.WithoutCancel(ctx)
	closing, closeNow := context.WithCancel(base)
	cutting, cutNow := context.WithCancel(base)
	released, done := make(chan struct{}), make(chan struct{})
	pause := func(d time.Duration) (goOn bool) {
		over := time.NewTimer(d)
		defer over.Stop()
		select {
		case <-over.C:
		case <-e.Hurry:
		case <-released:
			return false
		}
		return true
	}
	go func() { // release waits for it
		defer close(done)
		select {
		case <-ctx.Done():
		case <-released:
			return
		}
		if !pause(e.Drain) {
			return
		}
		closeNow()
		if pause(e.Grace) {
			cutNow()
		}
	}()
	return closing, cutting, func() {
		close(released)
		<-done
	}
}

// LastAnswers asks the clients of next, once stopping is closed, to close their
// connections after the answer (HTTP/1: "Connection: close", HTTP/2: GOAWAY). So
// they go elsewhere while this server still answers, and lose no request. An answer
// that changes the protocol of its connection is left as it is.
func LastAnswers(stopping <-chan struct{}, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-stopping:
			if r.Header.Get("Upgrade") == "" {
				w.Header().Set("Connection", "close")
			}
		default:
		}
		next.ServeHTTP(w, r)
	})
}

// Hurried returns a context that ends with the second signal to stop. The third
// ends the process at once. It may be called once.
func (p *Process) Hurried() context.Context {
	if p.Again == nil {
		return context.Background()
	}
	ctx, hurry := context.WithCancel(context.Background())
	go func() { // ends with the process
		<-p.Again
		hurry()
		<-p.Again
		os.Exit(exitFailed)
	}()
	return ctx
}

// OnHangup calls do for every SIGHUP, which does not end the process from now on,
// one call at a time. Stop waits for a call that runs, and ends the calls.
func OnHangup(do func()) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // for good: the end of the program must not be cut short either
	end, done := make(chan struct{}), make(chan struct{})
	go func() { // stop waits for it
		defer close(done)
		for {
			select {
			case <-hangups:
				do()
			case <-end:
				return
			}
		}
	}()
	return func() {
		close(end)
		<-done
	}
}

// IgnoreHangups is [OnHangup] for a program that has nothing to read again.
func IgnoreHangups(log *slog.Logger) (stop func()) {
	return OnHangup(func() {
		log.Info("SIGHUP changes nothing: flags are read at the start only, files with credentials and certificates whenever a connection is opened")
	})
}
