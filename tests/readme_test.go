package tests

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// sources are the files that match one of the patterns, by path.
func sources(tb testing.TB, patterns ...string) map[string]string {
	tb.Helper()
	files := map[string]string{}
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			tb.Fatalf("no files %s, error %v", pattern, err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				tb.Fatal(err)
			}
			files[path] = string(data)
		}
	}
	return files
}

// dense is a text without indentation and empty lines.
func dense(text string) string {
	var all []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return strings.Join(all, "\n")
}

// blocks are the contents of the fenced blocks of a language in a document.
func blocks(document, language string) []string {
	var all []string
	for _, rest := range strings.Split("\n"+document, "\n```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(rest, "\n```")
		all = append(all, block+"\n")
	}
	return all
}

// The code of the documents is that of programs and tests, to the letter.
func TestTheDocumentsShowCodeThatIsCompiled(t *testing.T) {
	var code []string
	for _, source := range sources(t, "example_test.go", "howdoi_test.go", "../examples/*/*.go", "../examples/*/*/*.go") {
		code = append(code, dense(source))
	}
	compiled := strings.Join(code, "\n")
	for path, document := range sources(t, "../README.md", "../docs/how-do-i.md") {
		snippets := blocks(document, "go")
		if len(snippets) < 2 {
			t.Errorf("%s has %d snippets", path, len(snippets))
		}
		for _, snippet := range snippets {
			if !strings.Contains(compiled, dense(snippet)) {
				t.Errorf("%s: no program and no test has this code:\n%s", path, snippet)
			}
		}
	}
}

func TestTheReadmeIsShort(t *testing.T) {
	for path, document := range sources(t, "../README.md") {
		if n := strings.Count(document, "\n"); n > 155 {
			t.Errorf("%s has %d lines, want at most 155", path, n)
		}
	}
}

// The page lists the instruments that package telemetry makes, and no others.
func TestTheMetricsAreListed(t *testing.T) {
	metric := regexp.MustCompile(`"(proxima_\w+)"`)
	made := map[string]bool{}
	for path, source := range sources(t, "../pkg/telemetry/*.go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		for _, found := range metric.FindAllStringSubmatch(source, -1) {
			made[found[1]] = true
		}
	}
	page := sources(t, "../docs/how-do-i.md")["../docs/how-do-i.md"]
	for name := range made {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("docs/how-do-i.md does not list %s", name)
		}
	}
	for _, found := range regexp.MustCompile("`(proxima_\\w+)`").FindAllStringSubmatch(page, -1) {
		if !made[found[1]] {
			t.Errorf("docs/how-do-i.md lists %s, which does not exist", found[1])
		}
	}
}

// Links between the documents lead to files that exist.
func TestTheLinksOfTheDocumentsLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)[^):]*\)`)
	for path, document := range sources(t, "../*.md", "../docs/*.md", "../docs/decisions/*.md", "../deploy/nats/*.md", "*.md", "*/README.md") {
		for _, found := range link.FindAllStringSubmatch(document, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), found[1])); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

// The commands of README.md print what it says. Ports are other ones, "…" in the
// document stands for anything, and a measured time for another.
func TestTheReadmesCommandsPrintWhatItShows(t *testing.T) {
	t.Parallel()
	document := sources(t, "../README.md")["../README.md"]
	ports := testkit.FreePorts(t, 3)
	url := fmt.Sprintf("nats://127.0.0.1:%d", ports[0])
	document = strings.NewReplacer(
		":4222", fmt.Sprintf(":%d", ports[0]), ":8080", fmt.Sprintf(":%d", ports[1]), ":9001", fmt.Sprintf(":%d", ports[2]),
	).Replace(document)
	begin := func(command string, env ...string) *testkit.Process {
		return testkit.Start(t, testkit.Command{Path: "/bin/sh", Args: []string{"-c", "exec " + command}, Env: append(env,
			"PATH="+programs(t)+string(filepath.ListSeparator)+os.Getenv("PATH"))})
	}
	commands := 0
	for _, block := range blocks(document, "console") {
		for _, step := range strings.Split("\n"+block, "\n$ ")[1:] {
			command, want, _ := strings.Cut(step, "\n")
			commands++
			switch {
			case strings.HasPrefix(command, "router serve"):
				p := begin(command, fmt.Sprintf("PROXIMA_NATS_LISTEN=127.0.0.1:%d", ports[0]), fmt.Sprintf("PROXIMA_HTTP=127.0.0.1:%d", ports[1]))
				p.Stdout.Await(t, shown(want))
			case strings.HasSuffix(command, " &"):
				p := begin(strings.TrimSuffix(command, " &"), "PROXIMA_NATS_URL="+url)
				p.Stderr.Await(t, shown(want))
				t.Cleanup(func() { // a kill would leave the command of an announcer running
					p.Signal(os.Interrupt)
					p.Signal(os.Interrupt)
					p.Exit()
				})
			default:
				prints(t, command, want, func() string {
					if path, ok := strings.CutPrefix(command, "curl "); ok && !installed("curl") {
						return get(t, strings.Trim(path, "'"))
					}
					p := begin(command, "PROXIMA_NATS_URL="+url)
					p.Exit()
					return p.Stdout.String()
				})
			}
		}
	}
	if commands < 4 {
		t.Errorf("README.md has %d commands with their output", commands)
	}
}

// prints waits until a command prints what it should: distances are measured soon.
func prints(t *testing.T, command, want string, run func() string) {
	t.Helper()
	var got string
	defer func() {
		if t.Failed() {
			t.Logf("$ %s\n%s\nwant\n%s", command, got, want)
		}
	}()
	testkit.Eventually(t, "the output of "+command, func() bool {
		got = run()
		return regexp.MustCompile("^" + shown(want) + `\s*$`).MatchString(got)
	})
}

// shown is the pattern of an output as a document shows it.
func shown(output string) string {
	p := regexp.QuoteMeta(strings.TrimSpace(output))
	p = strings.ReplaceAll(p, "…", ".*")
	p = regexp.MustCompile(`[0-9]+(\\\.[0-9]+)? ms`).ReplaceAllString(p, `[0-9.]+ ms`)
	return regexp.MustCompile(`\s+`).ReplaceAllString(p, `\s+`)
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// get does what curl does, where there is none.
func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
