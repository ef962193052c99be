package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"time"
)

// roleEnv is the variable that makes this program another one: its parent
// starts it again for what shall be measured apart.
const roleEnv = "PROXIMA_SCALE_ROLE"

// roles are the other programs. Each gets its configuration, and answers what
// it reads from in on out until in ends.
var roles = map[string]func(config []byte, in *json.Decoder, out *json.Encoder) error{
	"server":  serve,
	"callers": callers,
}

// play runs a role and returns the exit code.
func play(name string) int {
	role := roles[name]
	if role == nil || len(os.Args) != 2 {
		fmt.Fprintf(os.Stderr, "scale: no role %q\n", name)
		return 2
	}
	defer profile(name)()
	if err := role([]byte(os.Args[1]), json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)); err != nil {
		fmt.Fprintf(os.Stderr, "scale: %s: %v\n", name, err)
		return 1
	}
	return 0
}

// profileEnv is the variable that names the directory of -profile.
const profileEnv = "PROXIMA_SCALE_PROFILE"

// profile writes CPU and heap of this process, if that was asked for.
func profile(name string) (stop func()) {
	dir := os.Getenv(profileEnv)
	if dir == "" {
		return func() {}
	}
	base := filepath.Join(dir, fmt.Sprintf("%s-%d", name, os.Getpid()))
	cpu, err := os.Create(base + ".cpu")
	if err == nil {
		err = pprof.StartCPUProfile(cpu)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale: no profile:", err)
		return func() {}
	}
	return func() {
		pprof.StopCPUProfile()
		_ = cpu.Close()
		if heap, err := os.Create(base + ".heap"); err == nil {
			_ = pprof.WriteHeapProfile(heap)
			_ = heap.Close()
		}
	}
}

// child is this program in another role. It ends with its standard input, and
// with this process.
type child struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	once sync.Once
}

func spawn(role string, config any) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self, string(data))}
	c.cmd.Env = append(os.Environ(), roleEnv+"="+role)
	c.cmd.Stderr = os.Stderr
	dieTogether(c.cmd)
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(out)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the %s: %w", role, err)
	}
	return c, nil
}

// question is what a child is asked to do.
type question struct {
	Do    string
	For   time.Duration // at most, or exactly
	Stamp int64
}

// ask has a child do something and waits for its answer.
func (c *child) ask(q question, answer any) error {
	if err := json.NewEncoder(c.in).Encode(q); err != nil {
		return fmt.Errorf("ask for %s: %w", q.Do, err)
	}
	return c.hear(answer)
}

// hear waits for what a child says.
func (c *child) hear(answer any) error {
	var said struct {
		Error string
		Value json.RawMessage
	}
	if err := c.out.Decode(&said); err != nil {
		return fmt.Errorf("a child has ended: %w", err)
	}
	if said.Error != "" {
		return errors.New(said.Error)
	}
	return json.Unmarshal(said.Value, answer)
}

// say is the other side of hear.
func say(out *json.Encoder, value any, err error) error {
	if err != nil {
		return out.Encode(map[string]any{"Error": err.Error()})
	}
	return out.Encode(map[string]any{"Value": value})
}

func (c *child) usage() (usage, error) { return usageOf(c.cmd.Process.Pid) }

// kill is kill -9.
func (c *child) kill() {
	c.once.Do(func() {
		_ = c.cmd.Process.Kill()
		_ = c.in.Close()
		_ = c.cmd.Wait()
	})
}

// end lets the child end by itself, for some seconds.
func (c *child) end() {
	patience := time.AfterFunc(5*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer patience.Stop()
	c.once.Do(func() {
		_ = c.in.Close()
		_ = c.cmd.Wait()
	})
}

// usage is what a process has used.
type usage struct {
	CPU time.Duration // user and system
	RSS int64         // bytes
}
