package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/policy"
	"github.com/proxima-discovery/proxima/pkg/subset"
)

// policyCommand has the commands about policies.
type policyCommand struct {
	Set   policySetCommand   `cmd:"" help:"Write the policy of a service."`
	Get   policyGetCommand   `cmd:"" help:"Print the policy of a service."`
	Rm    policyRmCommand    `cmd:"" help:"Remove the policy of a service."`
	Diff  policyDiffCommand  `cmd:"" help:"Show what a file would change."`
	Edit  policyEditCommand  `cmd:"" help:"Edit the policy of a service."`
	List  policyListCommand  `cmd:"" help:"List the policies."`
	Check policyCheckCommand `cmd:"" help:"Check a file, without NATS."`
}

// policyService is the argument that names a policy.
type policyService struct {
	Service string `arg:"" help:"Service, or _default for all services."`
}

func (s policyService) validate() error {
	if s.Service == policy.Default {
		return nil
	}
	return validService(s.Service)
}

// session connects to the registry.
func (s policyService) session(ctx context.Context, p *daemon.Process, f *operatorFlags) (*session, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	return f.open(ctx, p)
}

// document reads the policy.
func (s policyService) document(ctx context.Context, from *session) (policy.Document, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	return from.registry.Policy(ctx, s.Service)
}

// condition is the flag that guards against changes of others.
type condition struct {
	IfRevision *uint64 `placeholder:"N" help:"Only if the policy is this revision. 0: only if there is none."`
}

func (c condition) options() []kv.PolicyOption {
	if c.IfRevision == nil {
		return nil
	}
	return []kv.PolicyOption{kv.IfRevision(*c.IfRevision)}
}

// readPolicy reads a file, or standard input if it is "-", and checks what it says.
func readPolicy(p *daemon.Process, file string) ([]byte, *policy.Policy, error) {
	var data []byte
	var err error
	switch {
	case file != "-":
		data, err = os.ReadFile(file)
	case p.Stdin == nil:
		file = "standard input"
	default:
		file = "standard input"
		data, err = io.ReadAll(io.LimitReader(p.Stdin, policy.MaxSize+1))
	}
	if err != nil {
		return nil, nil, daemon.Usagef("%w", err)
	}
	doc, err := policy.Decode(data)
	if err != nil {
		return nil, nil, daemon.Usagef("%s: %w", file, err)
	}
	return data, doc, nil
}

type policySetCommand struct {
	policyService
	File string `arg:"" help:"JSON file, or - for standard input."`

	condition
	operatorFlags
}

// Help is shown by -h.
func (c *policySetCommand) Help() string {
	return `Prints what changes and the new revision. Callers follow a policy within a second, and keep the last good one when they cannot read the newest. A field that the policy of a service does not set is that of _default, then that of the program's options. With --nats-regions it holds in all regions: of two policies the later one.

A where that matches no instance that is listed is told as a warning. What a document can say: docs/policies.md; docs/policy.schema.json is its JSON schema.`
}

// policyChange is what set and diff print as JSON.
type policyChange struct {
	Service   string      `json:"service"`
	Revision  uint64      `json:"revision,omitempty"`
	At        *time.Time  `json:"at,omitempty"`
	Changes   []string    `json:"changes"`
	Unmatched []unmatched `json:"unmatched"`
}

// unmatched is an expression that matches no instance that is listed.
type unmatched struct {
	Field string `json:"field"`
	Where string `json:"where"`
}

// Run writes a policy.
func (c *policySetCommand) Run(ctx context.Context, p *daemon.Process) error {
	if err := c.validate(); err != nil {
		return err
	}
	data, doc, err := readPolicy(p, c.File)
	if err != nil {
		return err
	}
	s, err := c.session(ctx, p, &c.operatorFlags)
	if err != nil {
		return err
	}
	defer s.close()
	before, err := c.document(ctx, s)
	if err != nil {
		return err
	}
	change := policyChange{Service: c.Service, Revision: before.Revision, Changes: changes(before.Policy, doc), Unmatched: s.unmatched(ctx, c.Service, doc)}
	if before.Err != nil || !bytes.Equal(before.Data, data) || c.IfRevision != nil {
		if before, err = s.put(ctx, c.Service, data, c.options()...); err != nil {
			return err
		}
		change.Revision, change.At = before.Revision, &before.At
	}
	return change.print(p, c.JSON)
}

// put writes a policy.
func (s *session) put(ctx context.Context, service string, data []byte, o ...kv.PolicyOption) (policy.Document, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	return s.registry.PutPolicy(ctx, service, data, o...)
}

// print prints what was written.
func (c *policyChange) print(p *daemon.Process, asJSON bool) error {
	for _, u := range c.Unmatched {
		fmt.Fprintf(p.Stderr, "warning: %s %q matches no instance of %s that is listed now\n", u.Field, u.Where, c.Service)
	}
	if asJSON {
		return printJSON(p.Stdout, c)
	}
	for _, line := range c.Changes {
		fmt.Fprintln(p.Stdout, line)
	}
	what := "is"
	if c.At == nil {
		what = "stays"
	}
	_, err := fmt.Fprintf(p.Stdout, "the policy of %s %s revision %d\n", c.Service, what, c.Revision)
	return err
}

// changes is what policy.Diff finds, and never nil.
func changes(a, b *policy.Policy) []string {
	if lines := policy.Diff(a, b); lines != nil {
		return lines
	}
	return []string{}
}

// unmatched are the expressions of a policy that match no instance of its service that is
// listed: those of the policy for all services are not looked at. They may match one later.
func (s *session) unmatched(ctx context.Context, service string, p *policy.Policy) []unmatched {
	found := []unmatched{}
	if service == policy.Default {
		return found
	}
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	listed, err := s.registry.Snapshot(ctx, service)
	if err != nil {
		s.log.Warn("it is not known which instances match, they cannot be read", "error", err)
		return found
	}
	look := func(field, where string) {
		expression, err := subset.Parse(where)
		if err != nil || where == "" {
			return // the policy was checked
		}
		for _, l := range listed {
			for _, e := range l.Entries {
				if expression.Matches(e.Instance) {
					return
				}
			}
		}
		found = append(found, unmatched{field, where})
	}
	look("where", p.Where)
	for i, o := range p.Overrides {
		look(fmt.Sprintf("overrides[%d].where", i), o.Where)
	}
	for i, split := range p.Splits {
		look(fmt.Sprintf("splits[%d].where", i), split.Where)
	}
	if p.Mirror != nil {
		look("mirror.where", p.Mirror.Where)
	}
	return found
}

type policyGetCommand struct {
	policyService
	All bool `help:"Print what holds: the policy of the service over _default."`

	operatorFlags
}

// policyEntry is a policy as JSON.
type policyEntry struct {
	Service    string          `json:"service"`
	Revision   uint64          `json:"revision,omitempty"`
	At         *time.Time      `json:"at,omitempty"`
	Policy     json.RawMessage `json:"policy,omitempty"`
	Unreadable *unreadable     `json:"unreadable,omitempty"`
}

// unreadable is a newer document that callers cannot read.
type unreadable struct {
	Revision uint64    `json:"revision"`
	At       time.Time `json:"at"`
	Error    string    `json:"error"`
	Document string    `json:"document"`
}

func entryOf(d policy.Document) policyEntry {
	e := policyEntry{Service: d.Name, Policy: json.RawMessage(d.Data)}
	if d.Policy != nil {
		e.Revision, e.At = d.Revision, &d.At
	}
	if bad, ok := errors.AsType[*policy.UnreadableError](d.Err); ok {
		e.Unreadable = &unreadable{bad.Revision, bad.At, bad.Err.Error(), string(bad.Data)}
	}
	return e
}

// Run prints a policy.
func (c *policyGetCommand) Run(ctx context.Context, p *daemon.Process) error {
	s, err := c.session(ctx, p, &c.operatorFlags)
	if err != nil {
		return err
	}
	defer s.close()
	d, err := c.document(ctx, s)
	if err != nil {
		return err
	}
	if d.Err != nil && !c.JSON {
		return fmt.Errorf("policy of %s: %w (callers that know an older one follow that; mend it with: router policy edit %s)", c.Service, d.Err, c.Service)
	}
	if c.All {
		base, err := policyService{policy.Default}.document(ctx, s)
		if err != nil {
			return err
		}
		both := policy.Current{Default: base, Service: d}
		if d.Name == policy.Default {
			both = policy.Current{Default: base}
		}
		if d.Data, err = policy.Encode(both.Policy()); err != nil {
			return err
		}
	} else if d.Policy == nil && d.Err == nil {
		return noPolicy(c.Service)
	}
	if c.JSON {
		return printJSON(p.Stdout, entryOf(d))
	}
	_, err = p.Stdout.Write(append(bytes.TrimRight(d.Data, "\n"), '\n'))
	return err
}

func noPolicy(service string) error { return fmt.Errorf("there is no policy of %s", service) }

type policyRmCommand struct {
	policyService
	condition
	operatorFlags
}

// Run removes a policy.
func (c *policyRmCommand) Run(ctx context.Context, p *daemon.Process) error {
	s, err := c.session(ctx, p, &c.operatorFlags)
	if err != nil {
		return err
	}
	defer s.close()
	d, err := c.document(ctx, s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	if err := s.registry.DeletePolicy(ctx, c.Service, c.options()...); errors.Is(err, kv.ErrNoPolicy) {
		return noPolicy(c.Service)
	} else if err != nil {
		return err
	}
	change := policyChange{Service: c.Service, Changes: changes(d.Policy, nil), Unmatched: []unmatched{}}
	if c.JSON {
		return printJSON(p.Stdout, change)
	}
	for _, line := range change.Changes {
		fmt.Fprintln(p.Stdout, line)
	}
	_, err = fmt.Fprintf(p.Stdout, "the policy of %s is removed\n", c.Service)
	return err
}

type policyDiffCommand struct {
	policyService
	File string `arg:"" help:"JSON file, or - for standard input."`

	operatorFlags
}

// Run prints what a file would change.
func (c *policyDiffCommand) Run(ctx context.Context, p *daemon.Process) error {
	if err := c.validate(); err != nil {
		return err
	}
	_, doc, err := readPolicy(p, c.File)
	if err != nil {
		return err
	}
	s, err := c.session(ctx, p, &c.operatorFlags)
	if err != nil {
		return err
	}
	defer s.close()
	d, err := c.document(ctx, s)
	if err != nil {
		return err
	}
	change := policyChange{Service: c.Service, Revision: d.Revision, Changes: changes(d.Policy, doc), Unmatched: s.unmatched(ctx, c.Service, doc)}
	if c.JSON {
		return printJSON(p.Stdout, change)
	}
	for _, line := range change.Changes {
		if _, err := fmt.Fprintln(p.Stdout, line); err != nil {
			return err
		}
	}
	return nil
}

type policyListCommand struct{ operatorFlags }

// Run lists the policies.
func (c *policyListCommand) Run(ctx context.Context, p *daemon.Process) error {
	s, err := c.open(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	all, err := s.registry.Policies(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		entries := make([]policyEntry, len(all))
		for i, d := range all {
			entries[i] = entryOf(d)
		}
		return printJSON(p.Stdout, struct {
			Policies []policyEntry `json:"policies"`
		}{entries})
	}
	t := newTable(p.Stdout, "SERVICE", "REVISION", "WRITTEN", "SETS")
	for _, d := range all {
		if bad, ok := errors.AsType[*policy.UnreadableError](d.Err); ok {
			t.row(d.Name, bad.Revision, bad.At.UTC().Format(time.RFC3339), "cannot be read: "+bad.Err.Error())
			continue
		}
		t.row(d.Name, d.Revision, d.At.UTC().Format(time.RFC3339), sets(d.Policy))
	}
	return t.end()
}

// sets are the fields that a policy sets.
func sets(p *policy.Policy) string {
	var names []string
	for _, line := range policy.Diff(nil, p) {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "+ "), ": ")
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

type policyCheckCommand struct {
	File string `arg:"" help:"JSON file, or - for standard input."`
}

// Run checks a file.
func (c *policyCheckCommand) Run(_ context.Context, p *daemon.Process) error {
	_, doc, err := readPolicy(p, c.File)
	if err != nil {
		return err
	}
	what := "sets " + sets(doc)
	if what == "sets " {
		what = "sets nothing"
	}
	_, err = fmt.Fprintf(p.Stdout, "%s is a policy: it %s\n", c.File, what)
	return err
}
