package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// docs/doors.md shows requests and answers: they are what a router answers, in
// the order of the page.
func TestTheExamplesOfTheDoorsPageAreWhatARouterAnswers(t *testing.T) {
	page, err := os.ReadFile("../../docs/doors.md")
	if err != nil {
		t.Fatal(err)
	}
	d := newFleet(t).router(router.Options{Selector: selector.Options{Location: topology.Location{Region: "eu", Zone: "a"}}})
	instance := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.RequestURI != "/greeting?name=you" {
			t.Errorf("the instance got %s %s", r.Method, r.RequestURI)
		}
		_, _ = io.WriteString(w, "hello\n")
	}))
	defer instance.Close()
	address := instance.Listener.Addr().String()
	var commands, messages int
	var registration string
	for _, block := range regexp.MustCompile("(?s)```(console|nats)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		text := strings.NewReplacer("127.0.0.1:9001", address, "\\\n", "").Replace(block[2]) // also joins a command of two lines
		var got, want string
		if block[1] == "console" {
			commands++
			line, answer, _ := strings.Cut(text, "\n")
			c := parseCurl(t, line)
			if registration == "" {
				registration = c.body
			}
			got, want = c.run(d, answer), answer
		} else {
			if messages++; messages == 1 {
				d.do(http.MethodPost, "/v1/register", registration)
				testkit.Eventually(t, "the instance is called", func() bool {
					return d.do(http.MethodGet, "/proxy/user/greeting?name=you", "").status == http.StatusOK
				})
			}
			got, want = exchange(d, text)
		}
		if got, want = steady(got), steady(want); got != want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", text, got, want)
		}
	}
	if commands < 11 || messages < 3 {
		t.Errorf("the page has %d commands and %d messages", commands, messages)
	}
}

// steady joins lines that the page breaks, and hides what differs from run
// to run.
func steady(s string) string {
	s = regexp.MustCompile(`\n +`).ReplaceAllString(strings.TrimSpace(s), "")
	s = regexp.MustCompile(`"(incarnation|started|time)":"[^"]+"`).ReplaceAllString(s, `"$1":"…"`)
	return regexp.MustCompile(`weight \d+ of`).ReplaceAllString(s, "weight … of")
}

// curl is a command line of the page.
type curl struct {
	method, path, body string
	header             []string
	head               bool // show the head of the answer
	stream             bool
}

func parseCurl(t *testing.T, line string) curl {
	t.Helper()
	c := curl{method: http.MethodGet}
	words := regexp.MustCompile(`'[^']*'|\S+`).FindAllString(line, -1)
	for i := range words {
		words[i] = strings.Trim(words[i], "'")
	}
	for i := 2; i < len(words); i++ {
		switch w := words[i]; w {
		case "-X":
			i++
			c.method = words[i]
		case "-d":
			i++
			c.body = words[i]
		case "-H":
			i++
			name, value, _ := strings.Cut(words[i], ": ")
			c.header = append(c.header, name, value)
		case "-i":
			c.head = true
		case "-N":
			c.stream = true
		default:
			path, ok := strings.CutPrefix(w, "localhost:8080")
			if !ok {
				t.Fatalf("what is %s in %s?", w, line)
			}
			c.path = path
		}
	}
	return c
}

// run returns what curl prints: of the headers those of want, of a stream the
// first event.
func (c curl) run(d *door, want string) string {
	d.tb.Helper()
	if c.stream {
		resp, err := http.Get(d.url + c.path)
		if err != nil {
			d.tb.Fatal(err)
		}
		defer resp.Body.Close()
		var event strings.Builder
		for in := bufio.NewScanner(resp.Body); in.Scan() && in.Text() != ""; {
			event.WriteString(in.Text() + "\n")
		}
		return event.String()
	}
	got := d.do(c.method, c.path, c.body, c.header...)
	if !c.head {
		return got.body
	}
	all := []string{fmt.Sprintf("HTTP/1.1 %d %s", got.status, http.StatusText(got.status))}
	for _, line := range strings.Split(want, "\n")[1:] {
		name, _, ok := strings.Cut(line, ":")
		if !ok {
			break
		}
		all = append(all, name+": "+got.header.Get(name))
	}
	return strings.Join(all, "\n") + "\n\n" + got.body
}

// exchange sends the request of a text and returns the answer in its form: the
// same headers, and the payload.
func exchange(d *door, text string) (got, want string) {
	d.tb.Helper()
	var request, answer []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if l, ok := strings.CutPrefix(line, ">"); ok {
			request = append(request, strings.TrimSpace(l))
		} else {
			answer = append(answer, strings.TrimSpace(strings.TrimPrefix(line, "<")))
		}
	}
	var header []string
	payload := ""
	for i, line := range request[1:] {
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			payload = strings.Join(request[i+2:], "\n")
			break
		}
		header = append(header, name, value)
	}
	reply, _ := d.ask(request[0], payload, header...)
	return show(reply, answer), strings.Join(answer, "\n")
}

func show(reply *nats.Msg, like []string) string {
	var all []string
	for _, line := range like {
		name, _, ok := strings.Cut(line, ": ")
		if !ok {
			break
		}
		all = append(all, name+": "+reply.Header.Get(name))
	}
	return strings.Join(append(all, "", string(reply.Data)), "\n")
}
