package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/router"
)

// Requests that servers read differently: each is one request to the
// instance, as whole as it seems, or refused. "SMUGGLED" must never arrive as
// a request of its own.
var corpus = map[string]string{
	"CL and TE":              "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /proxy/user/SMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n",
	"TE and CL":              "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n30\r\nGET /proxy/user/SMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n\r\n0\r\n\r\n",
	"two different CL":       "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nContent-Length: 5\r\nContent-Length: 60\r\n\r\nhelloGET /proxy/user/SMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n",
	"CL list":                "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nContent-Length: 5, 60\r\n\r\nhelloGET /proxy/user/SMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n",
	"CL with a sign":         "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nContent-Length: +5\r\n\r\nhelloGET /proxy/user/SMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n",
	"CL in hex":              "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nContent-Length: 0x5\r\n\r\nhello",
	"TE twice":               "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nGET /proxy/user/SMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n",
	"TE unknown":             "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET /proxy/user/SMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n",
	"TE with a space":        "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /proxy/user/SMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n",
	"folded header":          "GET /proxy/user/ HTTP/1.1\r\nHost: r\r\nX: a\r\n GET /proxy/user/SMUGGLED HTTP/1.1\r\n\r\n",
	"header without a name":  "GET /proxy/user/ HTTP/1.1\r\nHost: r\r\n: x\r\n\r\n",
	"NUL in a header":        "GET /proxy/user/ HTTP/1.1\r\nHost: r\r\nX: a\x00b\r\n\r\n",
	"CR in a header":         "GET /proxy/user/ HTTP/1.1\r\nHost: r\r\nX: a\rSMUGGLED: b\r\n\r\n",
	"two hosts":              "GET /proxy/user/ HTTP/1.1\r\nHost: r\r\nHost: admin.proxima\r\n\r\n",
	"no host":                "GET /proxy/user/ HTTP/1.1\r\n\r\n",
	"bad host":               "GET /proxy/user/ HTTP/1.1\r\nHost: a b\r\n\r\n",
	"space in the path":      "GET /proxy/user/ SMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n",
	"LF in the path":         "GET /proxy/user/%0aSMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n",
	"CRLF in the path":       "GET /proxy/user/x%20HTTP/1.1%0d%0aHost:%20r%0d%0a%0d%0aGET%20/SMUGGLED HTTP/1.1\r\nHost: r\r\n\r\n",
	"CRLF in the service":    "GET /proxy/user%0d%0aX:%20y/ HTTP/1.1\r\nHost: r\r\n\r\n",
	"dots in the service":    "GET /proxy/../v1/services HTTP/1.1\r\nHost: r\r\n\r\n",
	"a host in the service":  "GET /proxy/user:80@10.0.0.1/ HTTP/1.1\r\nHost: r\r\n\r\n",
	"bad escape":             "GET /proxy/user/%zz HTTP/1.1\r\nHost: r\r\n\r\n",
	"absolute form":          "GET http://169.254.169.254/proxy/user/abs HTTP/1.1\r\nHost: r\r\n\r\n",
	"CONNECT":                "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: user.proxima\r\n\r\n",
	"CONNECT to the proxy":   "CONNECT user.proxima:80 HTTP/1.1\r\nHost: user.proxima:80\r\n\r\n",
	"bad method":             "GE(T /proxy/user/ HTTP/1.1\r\nHost: r\r\n\r\n",
	"bad chunk size":         "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
	"chunk longer than said": "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhelloGET /proxy/user/SMUGGLED HTTP/1.1\r\n0\r\n\r\n",
	"h2c upgrade":            "GET /proxy/user/ HTTP/1.1\r\nHost: r\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
	"HTTP/2 preface":         "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"HTTP/0.9":               "GET /proxy/user/\r\n\r\n",
	"hop-by-hop of ours":     "GET /proxy/user/ HTTP/1.1\r\nHost: r\r\nConnection: X-Forwarded-For, Via, close\r\n\r\n",
	"headers too large":      "GET /proxy/user/ HTTP/1.1\r\nHost: r\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n",
}

func TestAmbiguousRequestsReachAnInstanceOnceOrNotAtAll(t *testing.T) {
	t.Parallel()
	d := newFleet(t).router(router.Options{Timeout: time.Second})
	var mu sync.Mutex
	seen := map[string][]string{} // by case
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		mu.Lock()
		seen[name] = append(seen[name], r.Method+" "+r.RequestURI)
		mu.Unlock()
		if r.Header.Get("Upgrade") != "" || r.Header.Get("Http2-Settings") != "" || r.Header.Get("Via") == "" || r.Header.Get("X-Forwarded-For") == "" {
			t.Errorf("%s arrived with %v", r.RequestURI, r.Header)
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}))
	d.get("/proxy/user/plain/")
	statuses := map[string]int{}
	for name, raw := range corpus {
		id := strings.ReplaceAll(name, " ", "-")
		raw = strings.ReplaceAll(raw, "/proxy/user/", "/proxy/user/"+id+"/")
		statuses[id] = send(t, d.url, raw+"GET /proxy/user/"+id+"/LAST HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen["plain"]) != 1 || len(seen["hop-by-hop-of-ours"]) == 0 {
		t.Fatalf("good requests do not arrive: %v", seen)
	}
	for id, status := range statuses {
		requests := slices.DeleteFunc(seen[id], func(r string) bool { return r == "GET /"+id+"/LAST" })
		if len(requests) > 1 || slices.Contains(requests, "GET /"+id+"/SMUGGLED") {
			t.Errorf("%s: the instance saw %q", id, requests)
		}
		if len(requests) == 0 && status < 400 && status != 0 {
			t.Errorf("%s: no instance saw it, and the status is %d", id, status)
		}
	}
}

// send writes a request and returns the status of the first answer, 0 for none.
func send(t *testing.T, url, raw string) int {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(250 * time.Millisecond)); err != nil { // some wait for more
		t.Fatal(err)
	}
	fmt.Fprint(conn, raw)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	_, _ = io.Copy(io.Discard, in) // further answers
	return resp.StatusCode
}

func TestAClientThatDoesNotFinishItsHeadersIsCutOff(t *testing.T) {
	t.Parallel()
	srv := newFleet(t).router(router.Options{}).Server()
	if limit := srv.ReadHeaderTimeout; limit < 4*time.Second || limit > 9*time.Second {
		t.Errorf("the head of a request may take %v", limit)
	}
	srv.ReadHeaderTimeout = 500 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }() // ends with Close
	defer srv.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	fmt.Fprint(conn, "GET /v1/services HTTP/1.1\r\nHost: r\r\nX:")
	if err := conn.SetReadDeadline(began.Add(4 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(conn)
	if took := time.Since(began); err != nil || took < 400*time.Millisecond {
		t.Errorf("after %v: %v", took, err)
	}
}

func TestABodyThatDoesNotComeIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	d := newFleet(t).router(router.Options{Timeout: 100 * time.Millisecond})
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /v1/register HTTP/1.1\r\nHost: r\r\nContent-Length: 100\r\n\r\n{")
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 400 || !strings.Contains(string(body), "did not arrive") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
}
