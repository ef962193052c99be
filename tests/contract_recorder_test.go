package tests

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// contract collects what is seen from outside, one line for each name.
type contract struct {
	tb testing.TB

	mu    sync.Mutex
	seen  map[string]bool
	asked map[string]string // by reply subject, what was asked there
}

func newContract(tb testing.TB) *contract {
	return &contract{tb: tb, seen: map[string]bool{}, asked: map[string]string{}}
}

func (c *contract) see(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[fmt.Sprintf(format, args...)] = true
}

func (c *contract) has(line string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[line] || c.seen["? "+line]
}

// await waits until a line was seen.
func (c *contract) await(line string) {
	c.tb.Helper()
	testkit.Eventually(c.tb, "seen: "+line, func() bool { return c.has(line) })
}

// names are values that the test has chosen, by what they stand for.
var names = map[string]string{
	"user": "<service>", "orders": "<service>", "filed": "<service>", "mortal": "<service>", "many": "<service>", "regional": "<service>", "unknown": "<service>",
	"r1": "<region>", "r2": "<region>", "z1": "<zone>", "z2": "<zone>",
	"one": "<id>", "two": "<id>", "three": "<id>", "four": "<id>", "five": "<id>", "refuses": "<id>",
}

// id is that of one of many, and random what a program has made up.
var id = regexp.MustCompile(`^i\d+$`)

var random = regexp.MustCompile(`^[A-Za-z0-9_-]{16,}$`)

// pattern is a subject or path with placeholders for the test's own names.
func pattern(subject, separator string) string {
	tokens := strings.Split(subject, separator)
	for i, t := range tokens {
		if name, ok := names[t]; ok {
			tokens[i] = name
		} else if id.MatchString(t) {
			tokens[i] = "<id>"
		} else if random.MatchString(t) && !strings.HasPrefix(t, "KV_") && !strings.HasPrefix(t, "PROXIMA_") {
			tokens[i] = "<random>"
		}
	}
	return strings.Join(tokens, separator)
}

// message records a message that any client or the server has sent.
func (c *contract) message(msg *nats.Msg) {
	where := "nats " + pattern(msg.Subject, ".")
	switch {
	case strings.HasPrefix(msg.Subject, "_INBOX."):
		c.mu.Lock()
		asked, ok := c.asked[msg.Subject]
		c.mu.Unlock()
		if !ok {
			return
		}
		where = "reply to " + asked
	case strings.HasPrefix(msg.Subject, "$JS."), strings.HasPrefix(msg.Subject, "$SYS."):
		// What callers need the right to send. The answers are the server's matter.
		if !strings.HasPrefix(msg.Subject, "$JS.EVENT.") && msg.Subject != "$JS.API.STREAM.LIST" { // that is the test's
			c.see("? request %s", pattern(msg.Subject, "."))
		}
		return
	}
	if msg.Reply != "" {
		c.mu.Lock()
		c.asked[msg.Reply] = strings.TrimPrefix(where, "nats ")
		c.mu.Unlock()
	}
	c.see("%s", where)
	for name, values := range msg.Header {
		c.see("%s header %s", where, name)
		switch name {
		case "KV-Operation", "Nats-Marker-Reason", "Nats-TTL", "Content-Type", "Nats-Service-Error-Code", "Proxima-Status":
			c.see("%s header %s = %s", where, name, values[0])
		case "Nats-Schedule-Next": // else it is a time, by the server
			if values[0] == "purge" {
				c.see("%s header %s = %s", where, name, values[0])
			}
		}
	}
	c.json(where, msg.Data)
}

// Fields whose values are words of the contract: where they stand, or, for what
// depends on the time of the question, anywhere.
var (
	valued   = map[string]bool{"kind": true, "status": true, "fields[]": true, "subject": true, "queue_group": true, "name": true, "strategy": true}
	sometime = map[string]bool{"circle": true, "distance_source": true, "breaker": true}
)

// json records the fields of what may be JSON.
func (c *contract) json(where string, data []byte) {
	var v any
	if json.Unmarshal(data, &v) == nil {
		c.value(where, "", v)
	}
}

func (c *contract) value(where, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, x := range v {
			if strings.HasSuffix(path, "metadata") {
				key = "*"
			}
			c.value(where, strings.TrimPrefix(path+"."+key, "."), x)
		}
	case []any:
		if len(v) == 0 {
			c.see("? %s json %s[] empty", where, path)
		}
		for _, x := range v {
			c.value(where, path+"[]", x)
		}
	case nil:
		c.see("? %s json %s null", where, path)
	default:
		c.see("%s json %s %s", where, path, strings.TrimSuffix(fmt.Sprintf("%T", v), "64"))
		last := path[strings.LastIndexByte(path, '.')+1:]
		text, ok := v.(string)
		if name, known := names[text]; known {
			text = name
		}
		switch {
		case !ok:
		case sometime[last]:
			c.see("? json %s = %s", last, text)
		case valued[last] && strings.HasPrefix(where, "http GET /v1/services/"):
			c.see("? %s json %s = %s", where, path, text)
		case valued[last], last == "reason" && strings.HasPrefix(where, "nats "):
			c.see("%s json %s = %s", where, path, text)
		}
	}
}

// answer is what came back by HTTP.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// http sends a request and records the answer under the method, the pattern of
// the path, and the status.
func (c *contract) http(door, method, path, body string, header ...string) answer {
	c.tb.Helper()
	req, err := http.NewRequestWithContext(c.tb.Context(), method, door+path, strings.NewReader(body))
	if err != nil {
		c.tb.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.tb.Fatal(err)
	}
	shape, query, _ := strings.Cut(path, "?")
	shape = pattern(shape, "/")
	if key, _, ok := strings.Cut(query, "="); ok {
		shape += "?" + key
	}
	if req.Host != "" && strings.HasSuffix(req.Host, ".proxima") {
		shape = "host {service}.proxima " + shape
	}
	where := fmt.Sprintf("http %s %s %d", method, shape, resp.StatusCode)
	c.see("%s", where)
	for name, values := range resp.Header {
		switch name {
		case "Date", "Content-Length":
		case "Content-Type", "Allow":
			c.see("%s header %s: %s", where, name, strings.Join(values, ", "))
		default:
			c.see("%s header %s", where, name)
		}
	}
	c.json(where, data)
	return answer{resp.StatusCode, resp.Header, data}
}

// metric is a line of the exposition format, and label one of its labels.
var (
	metric = regexp.MustCompile(`(?m)^([a-z][a-z0-9_]*)(?:\{([^}]*)\})? `)
	typed  = regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`)
	label  = regexp.MustCompile(`([a-z_]+)="`)
)

// metrics records the names, types and labels that a program exposes.
func (c *contract) metrics(program, door string) {
	c.tb.Helper()
	text := string(c.http(door, "GET", "/metrics", "").body)
	foreign := func(name string) bool {
		return strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "promhttp_") || strings.HasPrefix(name, "otel_") || name == "target_info"
	}
	for _, m := range typed.FindAllStringSubmatch(text, -1) {
		if !foreign(m[1]) {
			c.see("metric %s %s %s", program, m[1], m[2])
		}
	}
	for _, m := range metric.FindAllStringSubmatch(text, -1) {
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if !foreign(m[1]) && !foreign(l[1]) && l[1] != "le" {
				c.see("metric %s %s label %s", program, m[1], l[1])
			}
		}
	}
}

// The shape of the help: a flag, a command, and the parts of a flag's text.
var (
	usageLine   = regexp.MustCompile(`(?m)^Usage: (.*)$`)
	commandLine = regexp.MustCompile(`(?m)^  ([a-z]+(?: [a-z]+)*)\b`)
	flagLine    = regexp.MustCompile(`^ +(?:-\w, +)?(--[a-z0-9-]+)(?:=(\S+))?(?: {2,}(.*))?$`)
	environment = regexp.MustCompile(`\$[A-Z_]+`)
	byDefault   = regexp.MustCompile(`\(([^()]*)\) \(\$`)
)

// help records the flags of a program and of all its commands.
func (c *contract) help(program, binary string) {
	c.tb.Helper()
	top := c.helpOf(program, binary)
	_, list, _ := strings.Cut(top, "\nCommands:\n")
	list, _, _ = strings.Cut(list, "\nFlags:\n")
	for _, m := range commandLine.FindAllStringSubmatch(list, -1) {
		c.helpOf(program+" "+m[1], binary, strings.Fields(m[1])...)
	}
}

func (c *contract) helpOf(program, binary string, args ...string) string {
	c.tb.Helper()
	cmd := exec.CommandContext(c.tb.Context(), binary, append(args, "--help")...)
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		c.tb.Errorf("%s --help: %v", program, err)
	}
	help := string(out)
	if m := usageLine.FindStringSubmatch(help); m != nil {
		c.see("usage %s", m[1])
	}
	var name, value, text string
	flush := func() {
		if name == "" {
			return
		}
		line := strings.TrimRight(fmt.Sprintf("flag %s %s=%s", program, name, value), "=")
		for _, v := range environment.FindAllString(text, -1) {
			line += " " + v
		}
		if m := byDefault.FindStringSubmatch(text); m != nil {
			line += " default " + m[1]
		}
		c.see("%s", line)
		name = ""
	}
	_, flags, _ := strings.Cut(help, "\nFlags:\n")
	for line := range strings.Lines(flags) {
		line = strings.TrimRight(line, "\n")
		if m := flagLine.FindStringSubmatch(line); m != nil {
			flush()
			name, value, text = m[1], m[2], m[3]
		} else if line == "" || !strings.HasPrefix(line, " ") {
			flush()
		} else {
			text += " " + strings.TrimSpace(line)
		}
	}
	flush()
	return help
}

// check compares what was seen with the golden file. A line that begins with a
// question mark depends on timing or on how something is asked: it may be seen
// or not. Every other line must be seen, and no line else.
func (c *contract) check(golden string, update bool) {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	known := map[string]bool{} // and whether it must be seen
	data, err := os.ReadFile(golden)
	if err != nil && !update {
		c.tb.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			name, perhaps := strings.CutPrefix(line, "? ")
			known[name] = !perhaps
		}
	}
	seen := map[string]bool{}
	for line := range c.seen {
		name, perhaps := strings.CutPrefix(line, "? ")
		seen[name] = !perhaps
	}
	if update {
		c.update(golden, known, seen)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if _, ok := seen[name]; !ok && known[name] {
			c.tb.Errorf("missing: %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		if _, ok := known[name]; !ok {
			c.tb.Errorf("new:     %s", name)
		}
	}
}

// update adds what was seen to the golden file, and makes optional what was not
// seen this time.
func (c *contract) update(golden string, known, seen map[string]bool) {
	c.tb.Helper()
	text := "# What is seen of Proxima from outside, one name a line: see contract_test.go.\n" +
		"# A line that begins with ? depends on timing: it may be seen or not.\n" +
		"# Renaming or removing one of these breaks programs that are not in this repository.\n"
	all := maps.Clone(seen)
	for name, must := range known {
		if now, ok := seen[name]; !ok {
			all[name] = false
		} else {
			all[name] = must && now
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !all[name] {
			text += "? "
		}
		text += name + "\n"
	}
	if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
		c.tb.Fatal(err)
	}
}
