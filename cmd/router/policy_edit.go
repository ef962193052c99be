package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/policy"
)

type policyEditCommand struct {
	policyService
	operatorFlags
}

// Help is shown by -h.
func (c *policyEditCommand) Help() string {
	return `Opens the policy in $VISUAL or $EDITOR, or vi. What was typed is checked, and is written unless the policy was changed meanwhile. If it is not written, it stays in a file that is named.`
}

// Run has the user edit a policy.
func (c *policyEditCommand) Run(ctx context.Context, p *daemon.Process) error {
	s, err := c.session(ctx, p, &c.operatorFlags)
	if err != nil {
		return err
	}
	defer s.close()
	d, err := c.document(ctx, s)
	if err != nil {
		return err
	}
	before, revision := d.Data, d.Revision
	if bad, ok := errors.AsType[*policy.UnreadableError](d.Err); ok {
		before, revision = bad.Data, bad.Revision
	}
	if len(before) == 0 {
		before = []byte("{\n}\n")
	}
	typed, file, err := edit(p, c.Service, before)
	if err != nil {
		return err
	}
	if bytes.Equal(typed, before) {
		_ = os.Remove(file) // it says nothing new
		_, err := fmt.Fprintf(p.Stdout, "nothing was changed\n")
		return err
	}
	doc, err := policy.Decode(typed)
	if err != nil {
		return notWritten(err, c.Service, file, revision)
	}
	change := policyChange{Service: c.Service, Changes: changes(d.Policy, doc), Unmatched: s.unmatched(ctx, c.Service, doc)}
	written, err := s.put(ctx, c.Service, typed, kv.IfRevision(revision))
	if err != nil {
		return notWritten(err, c.Service, file, revision)
	}
	_ = os.Remove(file) // it is in the registry
	change.Revision, change.At = written.Revision, &written.At
	return change.print(p, c.JSON)
}

// notWritten says where what was typed is, and how to go on.
func notWritten(err error, service, file string, revision uint64) error {
	if errors.Is(err, kv.ErrChanged) {
		return fmt.Errorf("%w; what you typed is in %s: compare with router policy diff %s %s, then router policy set %s %s", err, file, service, file, service, file)
	}
	return fmt.Errorf("%w; what you typed is in %s: correct it, then router policy set %s %s --if-revision %d", err, file, service, file, revision)
}

// edit has the user change text in an editor, and returns it with the file that it is in.
// If there is an error, a file that was changed stays.
func edit(p *daemon.Process, service string, text []byte) (typed []byte, file string, err error) {
	f, err := os.CreateTemp("", "policy-"+service+"-*.json")
	if err != nil {
		return nil, "", err
	}
	file = f.Name()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, "", err
	}
	editor := "vi"
	for _, name := range []string{"EDITOR", "VISUAL"} {
		if value := p.Getenv(name); value != "" {
			editor = value
		}
	}
	cmd := exec.Command("sh", "-c", editor+` "$1"`, editor, file) //nolint:gosec // the user's own editor; it handles Ctrl-C itself
	if cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr; p.Stdin != nil {
		cmd.Stdin = p.Stdin
	}
	failed := cmd.Run()
	typed, err = os.ReadFile(file)
	switch {
	case failed == nil && err == nil:
		return typed, file, nil
	case err == nil && bytes.Equal(typed, text):
		_ = os.Remove(file) // it says nothing new
		return nil, "", fmt.Errorf("the editor %q failed: %w", editor, failed)
	}
	return nil, "", fmt.Errorf("the editor %q failed: %w; what you typed is in %s", editor, errors.Join(failed, err), file)
}
