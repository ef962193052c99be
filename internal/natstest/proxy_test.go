package natstest_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
)

const (
	soon  = 5 * time.Second        // until what must come has come
	quiet = 100 * time.Millisecond // in which what must not come has not
)

// echo sends back whatever it gets.
func echo(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // until either end closes
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, p *natstest.Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// hear reads as many bytes as want has, or what comes within the time.
func hear(t *testing.T, c net.Conn, want string, within time.Duration) (string, error) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	return string(got[:n]), err
}

func say(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := io.WriteString(c, what); err != nil {
		t.Fatal(err)
	}
}

func answers(t *testing.T, c net.Conn, word string) {
	t.Helper()
	say(t, c, word)
	if got, err := hear(t, c, word, soon); got != word {
		t.Fatalf("heard %q, %v, want %q", got, err, word)
	}
}

func TestAProxyForwardsAndCuts(t *testing.T) {
	t.Parallel()
	p := natstest.NewProxy(t, echo(t))
	open := make([]net.Conn, 200) // as the two ends of one could be closed in a wrong order
	for i := range open {
		open[i] = dial(t, p)
		answers(t, open[i], "before")
	}

	p.Cut()
	for i, c := range open {
		if _, err := hear(t, c, "x", soon); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("open connection %d got %v, want a reset", i, err)
		}
	}
	if again, err := net.Dial("tcp", p.Addr()); err == nil {
		defer again.Close()
		if _, err := hear(t, again, "x", soon); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a new connection got %v, want to be closed", err)
		}
	}

	p.Heal()
	answers(t, dial(t, p), "after")
}

func TestWhatAProxyLosesComesWhenItHeals(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]natstest.Direction{
		"up": natstest.Up, "down": natstest.Down, "both ways": natstest.Up | natstest.Down,
	} {
		t.Run(name, func(t *testing.T) {
			p := natstest.NewProxy(t, echo(t))
			c := dial(t, p)
			answers(t, c, "before")

			p.Lose(lost)
			say(t, c, "meanwhile")
			if got, err := hear(t, c, "meanwhile", quiet); got != "" || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("heard %q, %v, want silence", got, err)
			}
			newcomer := dial(t, p)
			say(t, newcomer, "hello")

			p.Heal()
			if got, err := hear(t, c, "meanwhile", soon); got != "meanwhile" {
				t.Errorf("heard %q, %v when it was healed", got, err)
			}
			if got, err := hear(t, newcomer, "hello", soon); got != "hello" {
				t.Errorf("the newcomer heard %q, %v when it was healed", got, err)
			}
		})
	}
}

func TestAProxyHoldsBack(t *testing.T) {
	t.Parallel()
	p := natstest.NewProxy(t, echo(t))
	c := dial(t, p)
	p.Delay(50 * time.Millisecond)
	began := time.Now()
	answers(t, c, "there and back")
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("an answer came after %v, want twice 50ms", took)
	}

	p.Jitter(0.5)
	least, most := time.Hour, time.Duration(0)
	for range 20 {
		began = time.Now()
		answers(t, c, "there and back")
		least, most = min(least, time.Since(began)), max(most, time.Since(began))
	}
	if least < 50*time.Millisecond || most < least+10*time.Millisecond {
		t.Errorf("answers came after %v to %v, want half of twice 50ms at least, and different times", least, most)
	}
}

func TestAProxyLetsNoMoreThroughThanItsRate(t *testing.T) {
	t.Parallel()
	p := natstest.NewProxy(t, echo(t))
	c := dial(t, p)
	p.Rate(40_000)
	began := time.Now()
	answers(t, c, string(make([]byte, 20_000)))
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("20 kB at 40 kB/s came back after %v", took)
	}
}
