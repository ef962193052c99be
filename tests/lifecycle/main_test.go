//go:build faults && linux

// Package lifecycle is about instances and announcers that begin, hang, die and
// end, with the real commands as processes, under load.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// serviceAt makes this test binary an instance that listens where it says.
const serviceAt = "LIFECYCLE_TEST_SERVICE"

func TestMain(m *testing.M) {
	if address := os.Getenv(serviceAt); address != "" {
		if err := serve(address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(testkit.Main(m))
}

// serve is the program of an instance. It answers with its process id, after
// as many milliseconds as the query "wait" asks for, which it also prints. At
// SIGTERM it ends after the calls in flight. It ends at once when its standard
// input does: then the test has ended.
func serve(address string) error {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	srv := &http.Server{Addr: address, ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if ms, err := strconv.Atoi(req.URL.Query().Get("wait")); err == nil {
			fmt.Println(req.Method, "waits", ms)
			time.Sleep(time.Duration(ms) * time.Millisecond)
		}
		fmt.Fprint(w, os.Getpid())
	})}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		<-stop.Done()
		ended <- srv.Shutdown(context.WithoutCancel(stop))
	}()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}
