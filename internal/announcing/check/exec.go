//go:build unix

package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// maxOutput is how much of what a command prints stands in the error.
const maxOutput = 200

// Exec returns the check that runs a command line by sh, and passes when it exits with 0.
// The command is killed when the check has no time left. What it has started is killed in any
// case: else each check could leave some behind.
func Exec(line string) (Func, error) {
	if strings.TrimSpace(line) == "" {
		return nil, errors.New(`check "exec:": want a command line, such as exec:pg_isready -q`)
	}
	return bounded("exec:"+line, func(ctx context.Context) error { return run(ctx, line) }), nil
}

// run runs a command line. The shell tells the exit code on a pipe: as process 1 the
// announcer waits for all of its children in one place, which would take it away.
func run(ctx context.Context, line string) error {
	told, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer told.Close()
	var output limited
	cmd := exec.Command("sh", "-c", `(eval "$1") 3>&-; echo $? >&3`, "sh", line)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.ExtraFiles = []*os.File{tell} // 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // for what still holds its output
	err = cmd.Start()
	_ = tell.Close()
	if err != nil {
		return err
	}
	kill := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // they may have ended
	stop := context.AfterFunc(ctx, func() {
		kill()
		_ = told.SetReadDeadline(time.Now())
	})
	defer stop()
	code, _ := io.ReadAll(io.LimitReader(told, 16)) // none: it was killed
	kill()
	_ = cmd.Wait() // only the code counts
	switch code := strings.TrimSpace(string(code)); {
	case ctx.Err() != nil:
		return ctx.Err()
	case code == "0":
		return nil
	case code == "":
		return errors.New("it was killed")
	default:
		return fmt.Errorf("exit code %s%s", code, output.String())
	}
}

// limited keeps the begin of what is written.
type limited struct{ text []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.text = append(l.text, p[:min(maxOutput-len(l.text), len(p))]...)
	return len(p), nil
}

func (l *limited) String() string {
	text := strings.Join(strings.Fields(string(l.text)), " ")
	if text != "" {
		text = ": " + text
	}
	return text
}
