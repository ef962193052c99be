package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestUpgradesToWebSockets(t *testing.T) {
	d := newFleet(t).router(router.Options{Grace: time.Second})
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			_, _ = io.WriteString(w, "plain")
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(conn, "echo "+line)
	})
	d.instance("user", "u", zoneA, backend)
	upgrade := func(protocol string) (*bufio.Reader, net.Conn, answer) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /proxy/user/ HTTP/1.1\r\nHost: r\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got := answer{status: resp.StatusCode, header: resp.Header}
		if got.status != http.StatusSwitchingProtocols {
			body, _ := io.ReadAll(resp.Body)
			got.body = string(body)
		}
		return in, conn, got
	}
	in, conn, got := upgrade("websocket")
	if got.status != 101 || got.header.Get("Proxima-Instance") != "u" {
		t.Fatalf("got %v", got)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := in.ReadString('\n'); line != "echo hello\n" {
		t.Errorf("got %q, %v", line, err)
	}
	// An upgraded protocol that carries requests would carry them past us.
	for _, protocol := range []string{"h2c", "proxima"} {
		if _, _, got := upgrade(protocol); got.status != 200 || got.body != "plain" {
			t.Errorf("%s: got %d %q", protocol, got.status, got.body)
		}
	}
	// A WebSocket that is open keeps the router no longer than other calls.
	_, _, _ = upgrade("websocket")
	done := make(chan struct{})
	go func() { d.end(); close(done) }()
	select {
	case <-done:
	case <-time.After(8 * time.Second):
		t.Error("the router does not stop")
	}
}

func TestAnEndpointThatLeadsBackToTheRouterIsNoLoop(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	self, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	d.list(events.Instance{Service: "loop", ID: "l", Location: zoneA, Endpoints: map[string]string{"http": self.Host}})
	got := d.get("/proxy/loop/proxy/loop/proxy/loop/x")
	if got.status != 508 || !strings.Contains(got.err(), "comes from this router") {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if reply, _ := d.ask("proxima.route.loop", "", "Proxima-Path", "/proxy/loop/x"); reply.Header.Get("Proxima-Status") != "508" {
		t.Errorf("by NATS: %v", reply.Header)
	}
}

func TestAnAnswerThatIsNotTheLastIsRewrittenAndCostsTheLastNothing(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.Header().Set("Proxima-Instance", "another")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "done")
	}))
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	// After a chunked body the router closes the connection.
	fmt.Fprint(conn, "POST /proxy/user/ HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	text, err := io.ReadAll(conn)
	early, last, _ := strings.Cut(string(text), "\r\n\r\n")
	if err != nil || early != "HTTP/1.1 103 Early Hints\r\nLink: </proxy/user/style.css>; rel=preload" {
		t.Errorf("early: %q, %v", early, err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(last)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, guessed := resp.Header["Content-Type"]; resp.StatusCode != 200 || !resp.Close || guessed || resp.Header.Get("Proxima-Instance") != "u" {
		t.Errorf("last: %q", last)
	}
}

// An instance that breaks the rules of HTTP gets its caller a 502, at both doors.
func TestAnAnswerThatCannotBeOneIsBadGateway(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	for id, answer := range map[string]string{
		"switches": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
		"low":      "HTTP/1.1 099 Low\r\nContent-Length: 1\r\n\r\nx",
		"broken":   "HTTP/1.1 200 OK\r\nno header\r\n\r\n",
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() { // ends with the listener
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { _ = conn.Close() })
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.WriteString(conn, answer) // and the connection stays
				}
			}
		}()
		d.list(events.Instance{Service: id, ID: "u", Location: zoneA, Endpoints: map[string]string{"http": l.Addr().String()}})
		if got := d.do("POST", "/proxy/"+id+"/", "x"); got.status != 502 || got.err() == "" {
			t.Errorf("%s: by HTTP %d %s", id, got.status, got.body)
		}
		if _, code := d.ask("proxima.route."+id, "x"); code != "502" {
			t.Errorf("%s: by NATS %s", id, code)
		}
	}
}
