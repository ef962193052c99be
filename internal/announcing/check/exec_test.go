//go:build unix

package check

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestACommandIsACheck(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	for _, tt := range []struct{ line, want string }{
		{"true", ""},
		{"test 1 = 1 && exit 0", ""},
		{"false", "exit code 1"},
		{"echo not yet; echo too >&2; exit 7", "exit code 7: not yet too"},
		{"no-such-command-here", "exit code 127"},
		{"kill -9 $$", "it was killed"},
		{"exit 3 # comment", "exit code 3"},
		{"echo 0 >&3; exit 4", "exit code"}, // it cannot tell a code in its place
		{"syntax ( error", "exit code 2"},
		{"yes | head -c 100000; exit 1", "exit code 1: y y"},
		{"sleep 30 & touch " + mark, ""}, // what it leaves behind does not hold it up
	} {
		ask, err := Exec(tt.line)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = ask(t.Context())
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "exec:"+tt.line) || len(err.Error()) > 500) {
			t.Errorf("%s: %v, want %q", tt.line, err, tt.want)
		}
		if took := time.Since(began); took > Timeout {
			t.Errorf("%s: took %v", tt.line, took)
		}
	}
	if _, err := os.Stat(mark); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "  "} {
		if _, err := Exec(bad); err == nil {
			t.Errorf("%q is a command", bad)
		}
	}
}

func TestACommandThatHangsIsKilled(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	ask, err := Exec("(sleep 1; touch " + mark + ") & sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := ask(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > Timeout {
		t.Errorf("took %v", took)
	}
	time.Sleep(1200 * time.Millisecond) // its child would be done by then
	if _, err := os.Stat(mark); err == nil {
		t.Error("a process that it had started lives")
	}
}

func TestACommandLeavesNothingBehind(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	ask, err := Exec("(sleep 1; touch " + mark + ") & exit 0")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := ask(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 900*time.Millisecond { // nothing holds its output either
		t.Errorf("took %v", took)
	}
	time.Sleep(1200 * time.Millisecond) // its child would be done by then
	if _, err := os.Stat(mark); err == nil {
		t.Error("a process that it had started lives")
	}
}

func TestAllChecksMustPass(t *testing.T) {
	bad := errors.New("bad")
	pass, fail := Func(func(context.Context) error { return nil }), Func(func(context.Context) error { return bad })
	if All() != nil || All(nil, nil) != nil {
		t.Error("without a check there is one")
	}
	for _, tt := range []struct {
		checks []Func
		want   error
	}{{[]Func{pass}, nil}, {[]Func{pass, nil, pass}, nil}, {[]Func{fail}, bad}, {[]Func{pass, fail, pass}, bad}} {
		if err := All(tt.checks...)(t.Context()); !errors.Is(err, tt.want) {
			t.Errorf("%d checks: %v, want %v", len(tt.checks), err, tt.want)
		}
	}
}

func TestTheGRPCCheckUsesNoProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("NO_PROXY", "")
	ask, err := Parse("grpc://127.0.0.9:2")
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(t.Context()); err == nil || strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "127.0.0.9:2") {
		t.Errorf("got %v", err)
	}
}
