package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// web is the HTTP side of a router.
type web struct {
	tb  testing.TB
	url string
}

func (w web) do(method, path, body string) (int, string) {
	w.tb.Helper()
	req, err := http.NewRequestWithContext(w.tb.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.tb.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.tb.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// ready waits until the router is.
func (w web) ready() {
	w.tb.Helper()
	testkit.Eventually(w.tb, "the router is ready", func() bool {
		status, _ := w.do("GET", "/readyz", "")
		return status == http.StatusOK
	})
}

const registration = `{"id":"u1","service":"user","endpoints":{"http":"127.0.0.1:9"},"location":{"region":"r1","zone":"a"}}`

func TestServesWithANATSServerOfItsOwnAndEndsWell(t *testing.T) {
	t.Parallel()
	store := filepath.Join(t.TempDir(), "store")
	args := []string{"serve", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--store-dir", store, "--region", "r1", "--zone", "a"}
	p := start(t, args...)
	url := p.Stdout.Await(t, `^NATS: an embedded server at (nats://\S+) \(no --nats-url was given\)$`)
	w := web{t, p.Stdout.Await(t, `^HTTP: (http://\S+)$`)}
	w.ready()
	if status, body := w.do("POST", "/v1/register", registration); status != 201 {
		t.Fatalf("register: %d %s", status, body)
	}
	for path, want := range map[string]string{
		"/healthz": `"ok":true`, "/readyz": `"stale":false`, "/metrics": `proxima_router_requests_total{code="201",door="register",service="user"} 1`,
		"/v1/services/user": `"circle":"zone"`,
	} {
		if status, body := w.do("GET", path, ""); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.500s", path, status, body)
		}
	}
	nc, err := nats.Connect(url) // others reach the server too
	if err != nil {
		t.Fatal(err)
	}
	if m, err := nc.Request("proxima.resolve.user", nil, testkit.Patience); err != nil || !strings.Contains(string(m.Data), `"u1"`) {
		t.Errorf("%v %v", m, err)
	}
	nc.Close()
	if code := p.Stop(); code != 0 || strings.Contains(p.Stderr.String(), "goroutine") {
		t.Errorf("exit code %d\n%s", code, p.Stderr)
	}

	// What was registered is still there after a restart, and its client goes on.
	p = start(t, args...)
	w = web{t, p.Stdout.Await(t, `^HTTP: (http://\S+)$`)}
	w.ready()
	if status, body := w.do("PUT", "/v1/heartbeat", `{"service":"user","id":"u1"}`); status != 200 {
		t.Errorf("a heartbeat after the restart: %d %s", status, body)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.Stderr)
	}
}

func TestAnsweringCallsEndBeforeTheProcess(t *testing.T) {
	t.Parallel()
	inside, release := make(chan struct{}), make(chan struct{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(inside)
		<-release
		_, _ = io.WriteString(w, "done")
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	p := start(t, "serve", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0")
	w := web{t, p.Stdout.Await(t, `^HTTP: (http://\S+)$`)}
	w.ready()
	if status, body := w.do("POST", "/v1/register", strings.Replace(registration, "127.0.0.1:9", l.Addr().String(), 1)); status != 201 {
		t.Fatalf("register: %d %s", status, body)
	}
	answered := make(chan string, 1)
	go func() {
		status, body := w.do("GET", "/proxy/user/", "")
		answered <- fmt.Sprint(status, " ", body)
	}()
	<-inside
	ended := make(chan int, 1)
	go func() { ended <- p.Stop() }()
	select {
	case code := <-ended:
		t.Fatalf("it ended with %d while a call was running", code)
	case <-time.After(200 * time.Millisecond):
	}
	close(release)
	if got := <-answered; got != "200 done" {
		t.Errorf("the call: %s", got)
	}
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d\n%s", code, p.Stderr)
	}
}

func TestServesOnANATSServerThatIsThere(t *testing.T) {
	r := newRegistry(t)
	r.list(t, "user", "u1", "a", nil)
	stdout, stderr, end := begin(t, "serve", "--nats-url", r.url, "--http", "127.0.0.1:0", "--allow-cidr", "10.0.0.0/8", "--allow-cidr", "192.168.0.1/32")
	w := web{t, stdout.Await(t, `^HTTP: (http://\S+)$`)}
	w.ready()
	if status, body := w.do("GET", "/v1/services", ""); status != 200 || !strings.Contains(body, `"user"`) {
		t.Errorf("got %d %s", status, body)
	}
	if !strings.Contains(stderr.String(), "zone is unknown") {
		t.Errorf("nothing is said of the unknown zone:\n%s", stderr)
	}
	if code := end(); code != 0 {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

// NATS is away: the last list of each service is on disk, and is served until
// NATS comes.
func TestStartsFromDiskWithoutNATS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	address := testkit.FreeAddress(t)
	if err := os.Mkdir(filepath.Join(dir, "proxima"), 0o700); err != nil {
		t.Fatal(err)
	}
	saved := fmt.Sprintf(`{"version":1,"service":"user","saved":%q,"instances":[{"revision":7,"instance":`+
		`{"id":"u1","service":"user","incarnation":"x","endpoints":{"http":"127.0.0.1:9"},"location":{"region":"r1","zone":"a"},"status":"up","weight":100,"ttl":"15s"}}]}`,
		time.Now().Add(-time.Minute).UTC().Format(time.RFC3339))
	if err := os.WriteFile(filepath.Join(dir, "proxima", "user.json"), []byte(saved), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, end := begin(t, "serve", "--nats-url", "nats://"+address, "--http", "127.0.0.1:0", "--snapshot-dir", dir, "--zone", "a", "--region", "r1")
	w := web{t, stdout.Await(t, `^HTTP: (http://\S+)$`)}
	w.ready()
	if status, body := w.do("GET", "/v1/services", ""); status != 200 || !strings.Contains(body, `{"name":"user","instances":1,"up":1,"stale":true,"stale_seconds":6`) {
		t.Errorf("got %d %s", status, body)
	}
	if status, body := w.do("GET", "/v1/services/user", ""); status != 200 || !strings.Contains(body, `"id":"u1"`) || !strings.Contains(body, `"stale":true`) {
		t.Errorf("got %d %s", status, body)
	}
	if status, _ := w.do("GET", "/v1/services/other", ""); status != 404 {
		t.Errorf("got %d for a service that is not known", status)
	}

	r := registryOn(t, natstest.Start(t, natstest.ListenAt(address)))
	r.list(t, "user", "u2", "a", nil)
	testkit.Eventually(t, "the router lists what the registry has", func() bool {
		_, body := w.do("GET", "/v1/services/user", "")
		return strings.Contains(body, `"id":"u2"`) && strings.Contains(body, `"stale":false`)
	})
	if code := end(); code != 0 {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

func TestReportsInOneLineWhyItCannotServe(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bare := natstest.Start(t, natstest.Listen, func(o *server.Options) { o.JetStream = false })
	free := []string{"--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0"}
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a flag that is none":       {[]string{"--colour"}, 2, "--colour"},
		"a network that is none":    {[]string{"--allow-cidr", "ten"}, 2, `--allow-cidr: network "ten": want`},
		"a strategy that is none":   {[]string{"--strategy", "best"}, 2, "--strategy:"},
		"no time":                   {[]string{"--timeout", "0s"}, 2, "--timeout: want more than 0"},
		"no calls":                  {[]string{"--concurrency", "0"}, 2, "--concurrency"},
		"a bucket with a dot":       {[]string{"--bucket", "a.b"}, 2, "--bucket"},
		"a zone that is none":       {[]string{"--zone", "a.b"}, 2, `--zone "a.b"`},
		"a URL that is none":        {[]string{"--nats-url", "http://x"}, 2, "--nats-url"},
		"no address":                {[]string{"--http", "8080"}, 2, "--http 8080: want host:port"},
		"an address that is taken":  {[]string{"--http", taken.Addr().String()}, 1, "address already in use: end the program that listens there, or choose another port"},
		"NATS' address is taken":    {[]string{"--nats-listen", taken.Addr().String()}, 1, "address already in use (is NATS running there? --nats-url nats://" + taken.Addr().String()},
		"a store that is a file":    {[]string{"--store-dir", file}, 1, "--store-dir wants a directory that this user can write to"},
		"a store that is read-only": {[]string{"--store-dir", "/proc/store"}, 1, "--store-dir wants a directory that this user can write to"},
		"no place for snapshots":    {[]string{"--snapshot-dir", "/proc/snapshots"}, 1, "--snapshot-dir wants a directory that this user can write to"},
		"no server at the URL":      {[]string{"--nats-url", "nats://127.0.0.1:1", "--connect-timeout", "200ms"}, 1, "cannot reach NATS at nats://127.0.0.1:1"},
		"a server without what for": {[]string{"--nats-url", bare.ClientURL()}, 1, "start it with JetStream enabled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := run(t, nil, slices.Concat([]string{"serve", "--log-level", "error"}, free, tt.args)...)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.says) || !oneLine(got.stderr) {
				t.Errorf("exit code %d, stderr:\n%s", got.code, got.stderr)
			}
		})
	}
}

func TestTakesEveryStrategy(t *testing.T) {
	t.Parallel()
	help := run(t, nil, "serve", "-h").stdout
	for _, s := range selector.Strategies() {
		// That it gets as far as to NATS says that the flag is good.
		got := run(t, nil, "serve", "--strategy", string(s), "--nats-url", "nats://127.0.0.1:1", "--connect-timeout", "10ms", "--http", "127.0.0.1:0")
		if got.code != 1 || !strings.Contains(got.stderr, "cannot reach NATS") {
			t.Errorf("%s: exit code %d, stderr:\n%s", s, got.code, got.stderr)
		}
		if !strings.Contains(help, string(s)) {
			t.Errorf("-h does not show %s", s)
		}
	}
}

func TestFlagsAreReadFromTheEnvironmentToo(t *testing.T) {
	got := run(t, map[string]string{"PROXIMA_NATS_URL": "nats://127.0.0.1:1", "PROXIMA_CONNECT_TIMEOUT": "100ms", "PROXIMA_HTTP": "127.0.0.1:0"}, "serve")
	if got.code != 1 || !strings.Contains(got.stderr, "cannot reach NATS at nats://127.0.0.1:1") {
		t.Errorf("exit code %d, stderr:\n%s", got.code, got.stderr)
	}
}

func TestHelpShowsEverything(t *testing.T) {
	if got := run(t, nil, "-h"); got.code != 0 || !strings.Contains(got.stdout, "serve [flags]") || !strings.Contains(got.stdout, "watch [<service>]") {
		t.Errorf("%d\n%s", got.code, got.stdout)
	}
	for command, flags := range map[string][]string{
		"serve":   {"--nats-url", "--nats-listen", "--store-dir", "--http", "--region", "--zone", "--allow-cidr", "--timeout", "PROXIMA_NATS_URL"},
		"explain": {"--from", "--json", "--nats-url"}, "watch": {"--json"}, "services": {"--json"}, "instances": {"--json"},
	} {
		got := run(t, nil, command, "-h")
		for _, f := range flags {
			if got.code != 0 || !strings.Contains(got.stdout, f) {
				t.Errorf("%s -h does not show %s", command, f)
			}
		}
	}
}

func TestARouterOfAnotherRegionThanItsRegistryWarns(t *testing.T) {
	t.Parallel()
	args := []string{"serve", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--nats-domain", "eu", "--nats-regions", "eu,us", "--zone", "a"}
	p := start(t, append(args, "--region", "r1")...)
	p.Stderr.Await(t, "the region of this router is not that of its registry.* region=r1 domain=eu")
	same := start(t, append(args, "--region", "eu")...)
	same.Stdout.Await(t, "^HTTP: ")
	if same.Stderr.Contains("is not that of its registry") {
		t.Errorf("with the region of the registry: %s", same.Stderr)
	}
	for _, p := range []*testkit.Process{p, same} {
		if code := p.Stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}
