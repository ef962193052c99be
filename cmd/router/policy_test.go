package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/policy"
)

const canary = `{
  "strategy": "p2c",
  "splits": [{"where": "version=2", "share": 0.1}]
}
`

// write writes a file and returns its name.
func write(tb testing.TB, text string) string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "policy.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return file
}

// put writes a key as another tool does.
func (r *registry) put(tb testing.TB, key, value string) {
	tb.Helper()
	js, err := jetstream.New(natstest.Connect(tb, r.ns))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := js.Publish(tb.Context(), "$KV.proxima."+key, []byte(value)); err != nil {
		tb.Fatal(err)
	}
}

// tell runs a command and compares its answer, in which N is any revision.
func (r *registry) tell(tb testing.TB, env map[string]string, code int, want string, args ...string) result {
	tb.Helper()
	if env == nil {
		env = map[string]string{}
	}
	env["PROXIMA_NATS_URL"] = r.url
	got := run(tb, env, append([]string{"policy"}, args...)...)
	out := regexp.MustCompile(`(revision|revision is) \d+`).ReplaceAllString(got.stdout+got.stderr, "$1 N")
	if got.code != code || !strings.Contains(out, want) || code != 0 && (got.stdout != "" || !oneLine(got.stderr)) {
		tb.Errorf("%q: %d\n%s%s", args, got.code, got.stdout, got.stderr)
	}
	return got
}

func TestAnOperatorWritesComparesAndRemovesAPolicy(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.list(t, "user", "u1", "a", func(in *events.Instance) { in.Version = "1.0" })
	file := write(t, canary)
	r.tell(t, nil, 0, "SERVICE  REVISION  WRITTEN  SETS\n", "list")
	r.tell(t, nil, 1, "router: there is no policy of user\n", "get", "user")
	r.tell(t, nil, 0, "+ strategy: \"p2c\"\n", "diff", "user", file)
	r.tell(t, nil, 1, "there is no policy of user", "rm", "user")
	got := r.tell(t, nil, 0, `warning: splits[0].where "version=2" matches no instance of user that is listed now`, "set", "user", file)
	if want := "+ splits: [{\"where\":\"version=2\",\"share\":0.1}]\n+ strategy: \"p2c\"\nthe policy of user is revision "; !strings.HasPrefix(got.stdout, want) {
		t.Error(got.stdout)
	}
	r.list(t, "user", "u2", "a", func(in *events.Instance) { in.Version = "2" })
	if got := r.tell(t, nil, 0, "", "diff", "user", file); got.stdout+got.stderr != "" {
		t.Errorf("of the same: %s%s", got.stdout, got.stderr)
	}
	if got := r.tell(t, nil, 0, "the policy of user stays revision N\n", "set", "user", file); got.stderr != "" {
		t.Errorf("it matches: %s", got.stderr)
	}
	if got := r.tell(t, nil, 0, "", "get", "user"); got.stdout != canary {
		t.Errorf("not as it was written: %s", got.stdout)
	}
	r.tell(t, nil, 0, "the policy of _default is revision N", "set", "_default", write(t, `{"timeout":"2s","strategy":"random"}`))
	got = r.tell(t, nil, 0, "", "get", "user", "--all")
	if p, err := policy.Decode([]byte(got.stdout)); err != nil || p.Strategy != "p2c" || p.Timeout.String() != "2s" {
		t.Errorf("%v %s", err, got.stdout)
	}
	r.tell(t, nil, 0, `"timeout": "2s"`, "get", "unknown", "--all")
	got = r.tell(t, nil, 0, "_default", "list")
	if out := squeeze(got.stdout); !regexp.MustCompile(`(?m)^_default \d+ \S+Z strategy, timeout$`).MatchString(out) || !regexp.MustCompile(`(?m)^user \d+ \S+Z splits, strategy$`).MatchString(out) {
		t.Error(out)
	}

	var change policyChange
	got = r.tell(t, nil, 0, "", "set", "user", write(t, `{"where":"version=3","mirror":{"where":"version=4","share":1},"overrides":[{"header":"x","where":"version=2"},{"header":"y","where":"z"}]}`), "--json")
	if err := json.Unmarshal([]byte(got.stdout), &change); err != nil || len(change.Unmatched) != 3 || change.Unmatched[1].Field != "overrides[1].where" || change.Unmatched[2].Field != "mirror.where" || change.At == nil || len(change.Changes) != 6 {
		t.Errorf("%v\n%s", err, got.stdout)
	}
	var entry policyEntry
	got = r.tell(t, nil, 0, "", "get", "user", "--json")
	if err := json.Unmarshal([]byte(got.stdout), &entry); err != nil || entry.Revision != change.Revision || entry.Unreadable != nil || !strings.Contains(string(entry.Policy), "version=3") {
		t.Errorf("%v\n%s", err, got.stdout)
	}
	var list struct{ Policies []policyEntry }
	got = r.tell(t, nil, 0, "", "list", "--json")
	if err := json.Unmarshal([]byte(got.stdout), &list); err != nil || len(list.Policies) != 2 || list.Policies[1].Revision != change.Revision {
		t.Errorf("%v\n%s", err, got.stdout)
	}
	r.tell(t, nil, 1, fmt.Sprintf("it was changed meanwhile: the revision is N, not %d", change.Revision+1), "set", "user", file, "--if-revision", fmt.Sprint(change.Revision+1))
	r.tell(t, nil, 1, "it was changed meanwhile", "rm", "user", "--if-revision", "0")
	r.tell(t, nil, 0, "is revision N", "set", "user", file, "--if-revision", fmt.Sprint(change.Revision))
	r.tell(t, nil, 0, "- strategy: \"p2c\"\nthe policy of user is removed\n", "rm", "user")
	r.tell(t, nil, 0, "+ splits", "set", "user", file, "--if-revision", "0")
}

func TestAPolicyComesFromStandardInput(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for text, want := range map[string]struct {
		code int
		says string
	}{
		canary: {0, "the policy of user is revision 1\n"},
		"{":    {2, "router: standard input: policy: not JSON"},
		"{\"where\":\"" + strings.Repeat("a", 70_000) + "\"}": {2, "want at most 65536"},
	} {
		stdin, err := os.Open(write(t, text))
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		var out testkit.Output
		p := &daemon.Process{Args: []string{"policy", "set", "user", "-", "--nats-url", r.url}, Getenv: func(string) string { return "" }, Stdin: stdin, Stdout: &out, Stderr: &out}
		if code := p.Run(t.Context(), "router", description, new(cli)); code != want.code || !out.Contains(want.says) {
			t.Errorf("%.20q: %d %s", text, code, out.String())
		}
	}
	r.tell(t, nil, 2, "standard input: policy: the document is empty", "set", "user", "-")
}

func TestAPolicyFileIsCheckedWithoutNATS(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]result{
		canary:             {0, "FILE is a policy: it sets splits, strategy\n", ""},
		"{}":               {0, "FILE is a policy: it sets nothing\n", ""},
		`{"timeout":"0s"}`: {2, "", "router: FILE: policy: timeout \"0s\": want a duration from 1ms to 24h, such as \"1.5s\"\n"},
	} {
		file := write(t, text)
		got := run(t, nil, "policy", "check", file)
		want.stdout, want.stderr = strings.ReplaceAll(want.stdout, "FILE", file), strings.ReplaceAll(want.stderr, "FILE", file)
		if got != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
	if got := run(t, nil, "policy", "check", "/nowhere"); got.code != 2 || !oneLine(got.stderr) {
		t.Errorf("%+v", got)
	}
}

func TestAPolicyIsEdited(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	dir := t.TempDir()
	command := filepath.Join(dir, "again")
	editor := func(script string) map[string]string {
		return map[string]string{"EDITOR": "sh -c '" + script + "' sh", "TMPDIR": dir}
	}
	r.tell(t, editor(`printf "{\"strategy\": \"p2c\"}" > "$1"`), 0, "+ strategy: \"p2c\"\nthe policy of user is revision N\n", "edit", "user")
	r.tell(t, editor(`sed -i s/p2c/random/ "$1"`), 0, "- strategy: \"p2c\"\n+ strategy: \"random\"\n", "edit", "user")
	r.tell(t, editor(`true`), 0, "nothing was changed\n", "edit", "user")
	r.tell(t, editor(`exit 3`), 1, "failed: exit status 3\n", "edit", "user")

	// What is typed stays in a file, which the error names.
	kept := func(got result, text string) string {
		t.Helper()
		file := regexp.MustCompile(`what you typed is in ([^\s:]+)`).FindStringSubmatch(got.stderr)
		if file == nil {
			t.Fatalf("no file in %s", got.stderr)
		}
		t.Cleanup(func() { _ = os.Remove(file[1]) })
		if data, err := os.ReadFile(file[1]); err != nil || !strings.Contains(string(data), text) {
			t.Errorf("%s, %v", data, err)
		}
		return file[1]
	}
	kept(r.tell(t, editor(`sed -i s/random/fastest/ "$1"; exit 1`), 1, "failed", "edit", "user"), "fastest")
	got := r.tell(t, editor(`sed -i s/random/fastest/ "$1"`), 1, `policy: strategy "fastest": want one of`, "edit", "user")
	file := kept(got, "fastest")
	if err := os.WriteFile(file, []byte(`{"strategy":"nearest"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, then, _ := strings.Cut(strings.TrimSpace(got.stderr), "then router policy ")
	r.tell(t, nil, 0, `+ strategy: "nearest"`, strings.Fields(then)...)

	// Another operator is faster.
	if err := os.WriteFile(command, fmt.Appendf(nil, `#!/bin/sh
%s=1 PROXIMA_NATS_URL=%s %s policy set user %s >/dev/null
sed -i s/nearest/least_request/ "$1"
`, childEnv, r.url, os.Args[0], write(t, `{"strategy":"random"}`)), 0o700); err != nil {
		t.Fatal(err)
	}
	kept(r.tell(t, map[string]string{"VISUAL": command, "EDITOR": "false"}, 1, "it was changed meanwhile", "edit", "user"), "least_request")
	r.tell(t, nil, 0, `"random"`, "get", "user")
}

func TestAPolicyThatCannotBeReadIsToldAndMended(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.put(t, "policy.user", `{"strategy":"fastest"}`)
	r.put(t, "policy.User", `{}`)
	r.put(t, "policy.orders", `{}`)
	r.tell(t, nil, 1, `policy of user: revision N cannot be read: policy: strategy "fastest"`, "get", "user")
	r.tell(t, nil, 0, `cannot be read: policy: strategy "fastest"`, "list")
	var entry policyEntry
	got := r.tell(t, nil, 0, "", "get", "user", "--json")
	if err := json.Unmarshal([]byte(got.stdout), &entry); err != nil || entry.Unreadable == nil || entry.Unreadable.Document != `{"strategy":"fastest"}` || entry.Policy != nil {
		t.Errorf("%v\n%s", err, got.stdout)
	}
	doctor := run(t, nil, "doctor", "--nats-url", r.url)
	if doctor.code != 1 || !regexp.MustCompile(`(?m)^error +policies +2 documents that should be a policy and cannot be read: policy\.User \(.*\), policy\.user \(.*fastest.*\)\. Do: router policy edit`).MatchString(doctor.stdout) {
		t.Errorf("%d\n%s", doctor.code, doctor.stdout)
	}
	r.tell(t, map[string]string{"EDITOR": "sed -i s/fastest/p2c/"}, 0, `+ strategy: "p2c"`, "edit", "user")
	r.put(t, "policy.user", "{")
	r.tell(t, nil, 0, "the policy of user is removed", "rm", "user")
	r.put(t, "policy.user", "{")
	r.tell(t, nil, 0, "the policy of user is revision N", "set", "user", write(t, "{}"))
}

func TestPolicyCommandsReportWhatIsWrong(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	file := write(t, "{}")
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a service that is none": {[]string{"set", "User", file, "--nats-url", r.url}, 2, `service "User"`},
		"an option as service":   {[]string{"get", "_defaults", "--nats-url", r.url}, 2, `service "_defaults"`},
		"no file":                {[]string{"diff", "user", "/nowhere", "--nats-url", r.url}, 2, "/nowhere: no such file"},
		"no NATS":                {[]string{"list", "--nats-url", "nats://127.0.0.1:1", "--connect-timeout", "100ms"}, 1, "cannot reach NATS"},
		"no bucket":              {[]string{"set", "user", file, "--nats-url", r.url, "--bucket", "none"}, 1, `no server has bucket "none"`},
		"a revision":             {[]string{"set", "user", file, "--if-revision", "x", "--nats-url", r.url}, 2, "--if-revision"},
		"no command":             {nil, 2, "expected one of"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := run(t, nil, append([]string{"policy"}, tt.args...)...)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.says) || !strings.HasPrefix(got.stderr, "router: ") || !oneLine(got.stderr) {
				t.Errorf("exit code %d, stderr:\n%s", got.code, got.stderr)
			}
		})
	}
}
