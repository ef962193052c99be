package telemetry_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"

	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

func TestAServerSpanIsNamedAfterItsRoute(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/services/{service}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") })
	mux.HandleFunc("/proxy/{service}/{path...}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	mux.HandleFunc("admin.example/", func(http.ResponseWriter, *http.Request) {})
	for _, tt := range []struct {
		method, url, name string
		attrs             map[string]string
		status            codes.Code
	}{
		{"GET", "http://10.0.0.1:8080/v1/services/user?from=a/b", "GET /v1/services/{service}", map[string]string{
			"http.request.method": "GET", "http.response.status_code": "200", "http.route": "/v1/services/{service}",
			"url.scheme": "http", "url.path": "/v1/services/user", "server.address": "10.0.0.1", "server.port": "8080", "client.address": "192.0.2.1",
		}, codes.Unset},
		{"POST", "https://router/proxy/user/a/b", "POST /proxy/{service}/{path...}", map[string]string{
			"http.request.method": "POST", "http.response.status_code": "502", "http.route": "/proxy/{service}/{path...}", "error.type": "502",
			"url.scheme": "https", "url.path": "/proxy/user/a/b", "server.address": "router", "client.address": "192.0.2.1",
		}, codes.Error},
		{"GET", "http://admin.example/x", "GET /", map[string]string{
			"http.request.method": "GET", "http.response.status_code": "200", "http.route": "/",
			"url.scheme": "http", "url.path": "/x", "server.address": "admin.example", "client.address": "192.0.2.1",
		}, codes.Unset},
		{"BREW", "http://router/none", "HTTP", map[string]string{
			"http.request.method": "_OTHER", "http.request.method_original": "BREW", "http.response.status_code": "404",
			"url.scheme": "http", "url.path": "/none", "server.address": "router", "client.address": "192.0.2.1",
		}, codes.Unset},
	} {
		exporter := spans(t)
		telemetry.Handler(mux).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(tt.method, tt.url, nil))
		got := only(t, exporter, 1)[0]
		if got.Name != tt.name || got.Status.Code != tt.status {
			t.Errorf("%s %s: span %q, status %v", tt.method, tt.url, got.Name, got.Status)
		}
		want(t, got, tt.attrs)
	}
}

func TestAPanicEndsTheSpanAndGoesOn(t *testing.T) {
	exporter := spans(t)
	func() {
		defer func() {
			if v := recover(); v != http.ErrAbortHandler { //nolint:errorlint // it is that very value
				t.Errorf("recovered %v", v)
			}
		}()
		telemetry.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })).
			ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}()
	got := only(t, exporter, 1)[0]
	if a := attributes(got); got.Status.Code != codes.Error || a["error.type"] != "panic" || a["http.response.status_code"] != "" {
		t.Errorf("the span says %v, %v", got.Status, a)
	}
}

func TestAHandlerCanDoWhatItsResponseWriterCan(t *testing.T) {
	exporter := spans(t)
	streamed := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/flush", func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush() // sends the head
		<-streamed
		_, _ = io.WriteString(w, "late")
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusCreated)
		w.WriteHeader(http.StatusTeapot) // ignored by net/http, with a log line
	})
	mux.HandleFunc("/copy", func(w http.ResponseWriter, _ *http.Request) {
		if n, err := io.Copy(w, strings.NewReader("copied")); n != 6 || err != nil {
			t.Error(n, err)
		}
	})
	mux.HandleFunc("/control", func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusAccepted)
	})
	srv := httptest.NewUnstartedServer(telemetry.Handler(mux))
	srv.Config.ErrorLog = nil
	srv.Start()
	t.Cleanup(srv.Close)
	for i, tt := range []struct {
		path, body, status string
	}{
		{"/flush", "late", "200"}, {"/early", "", "201"}, {"/copy", "copied", "200"}, {"/control", "", "202"},
	} {
		resp, err := http.Get(srv.URL + tt.path)
		if err != nil {
			t.Fatal(err)
		}
		if tt.path == "/flush" {
			close(streamed)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if a := attributes(only(t, exporter, i+1)[i]); string(body) != tt.body || a["http.response.status_code"] != tt.status {
			t.Errorf("%s: %q, %v", tt.path, body, a)
		}
	}
}

func TestAHijackThatFailsIsNoUpgrade(t *testing.T) {
	exporter := spans(t)
	h := telemetry.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, _, err := http.NewResponseController(w).Hijack(); err == nil {
			t.Error("hijacked")
		}
		w.WriteHeader(http.StatusNotImplemented)
	}))
	r := httptest.NewRequest("GET", "/", nil)
	h.ServeHTTP(httptest.NewRecorder(), r) // no Hijacker at all
	h.ServeHTTP(refusing{httptest.NewRecorder()}, r)
	for _, s := range only(t, exporter, 2) {
		if a := attributes(s); a["http.response.status_code"] != "501" {
			t.Errorf("%v", a)
		}
	}
}

type refusing struct{ http.ResponseWriter }

func (refusing) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errors.New("no") }
