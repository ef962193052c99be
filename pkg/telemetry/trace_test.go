package telemetry_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

// A caller asks over NATS, as through the router's door, and the answer comes
// from an instance over HTTP.
func TestACallOverNATSAndHTTPIsOneTrace(t *testing.T) {
	exporter := spans(t)
	near := serve(t, telemetry.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+r.Header.Get("baggage"))
	})))
	client := proxima(newSelector(t, instance("near", "a", near.Listener.Addr().String())), telemetry.Transport(proximahttp.NewBase()))

	ns := natstest.Start(t)
	door, caller := natstest.Connect(t, ns), natstest.Connect(t, ns)
	_, err := door.Subscribe("proxima.route.user", func(m *nats.Msg) {
		ctx, span := telemetry.Start(telemetry.Extract(context.Background(), m.Header), "route", "user")
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://user/greet", strings.NewReader(string(m.Data)))
		resp, err := client.Do(req)
		if err != nil {
			span.End(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		span.Picked(proximahttp.Instance(resp).ID, "zone")
		span.End(nil)
		_ = m.Respond(body)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := door.Flush(); err != nil {
		t.Fatal(err)
	}

	ctx, root := otel.Tracer("caller").Start(t.Context(), "caller")
	msg := nats.NewMsg("proxima.route.user")
	msg.Header.Set("baggage", "tenant=7")
	ctx = telemetry.Extract(ctx, msg.Header) // the caller's baggage; its span stays the parent
	msg.Header = telemetry.Inject(ctx, nats.Header(nil))
	reply, err := caller.RequestMsgWithContext(ctx, msg)
	root.End()
	if err != nil || string(reply.Data) != "hello tenant=7" {
		t.Fatalf("got %q, %v", reply.Data, err)
	}

	got := only(t, exporter, 4)
	byName := make(map[string]int)
	for i, s := range got {
		byName[s.Name+" "+s.SpanKind.String()] = i
		if s.SpanContext.TraceID() != root.SpanContext().TraceID() {
			t.Errorf("%s is of another trace", s.Name)
		}
	}
	parent := root.SpanContext().SpanID()
	for _, name := range []string{"route server", "POST client", "POST server"} {
		i, ok := byName[name]
		if !ok {
			t.Fatalf("no span %q in %v", name, byName)
		}
		if got[i].Parent.SpanID() != parent {
			t.Errorf("%s is not the child of the one before", name)
		}
		parent = got[i].SpanContext.SpanID()
	}
	want(t, got[byName["route server"]], map[string]string{
		"proxima.service": "user", "proxima.instance": "near", "proxima.circle": "zone",
	})
}

func TestEveryAttemptIsASpanThatNamesTheInstance(t *testing.T) {
	exporter := spans(t)
	near := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
	far := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "far") }))
	nearAddr, farAddr := near.Listener.Addr().String(), far.Listener.Addr().String()
	client := proxima(newSelector(t, instance("near", "a", nearAddr), instance("far", "b", farAddr)), telemetry.Transport(proximahttp.NewBase()))

	ctx, parent := telemetry.Start(t.Context(), "work", "user")
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://ada:secret@user/path?token=secret", nil)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(exporter.GetSpans()); n != 1 {
		t.Errorf("%d spans have ended before the body is read, want 1", n)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	parent.End(nil)

	got := only(t, exporter, 3)
	port := func(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }
	want(t, got[0], map[string]string{
		"http.request.method": "GET", "http.response.status_code": "503", "error.type": "503",
		"server.address": "127.0.0.1", "server.port": port(nearAddr), "url.full": "http://" + nearAddr + "/path",
		"proxima.service": "user", "proxima.instance": "near", "proxima.circle": "zone",
	})
	want(t, got[1], map[string]string{
		"http.request.method": "GET", "http.response.status_code": "200", "http.request.resend_count": "1",
		"server.address": "127.0.0.1", "server.port": port(farAddr), "url.full": "http://" + farAddr + "/path",
		"proxima.service": "user", "proxima.instance": "far", "proxima.circle": "region",
	})
	if got[0].Status.Code != codes.Error || got[1].Status.Code != codes.Unset || got[1].Parent.SpanID() != got[2].SpanContext.SpanID() {
		t.Errorf("status %v and %v, parent %v", got[0].Status, got[1].Status, got[1].Parent)
	}
}

func TestATransportAroundProximahttpMakesOneSpan(t *testing.T) {
	exporter := spans(t)
	near := serve(t, http.NotFoundHandler())
	inner := proximahttp.New(newSelector(t, instance("near", "a", near.Listener.Addr().String())), proximahttp.Options{})
	client := &http.Client{Transport: telemetry.Transport(inner)}
	resp, err := client.Get("http://user/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
	got := only(t, exporter, 1)[0]
	want(t, got, map[string]string{
		"http.request.method": "GET", "http.response.status_code": "404", "error.type": "404",
		"server.address": "user", "url.full": "http://user/",
		"proxima.service": "user", "proxima.instance": "near", "proxima.circle": "zone",
	})
}

func TestASpanShowsHowARequestFailed(t *testing.T) {
	for _, tt := range []struct {
		name string
		resp *http.Response
		err  error
		kind string
		text string
	}{
		{"no answer", nil, io.ErrUnexpectedEOF, "*errors.errorString", "unexpected EOF"},
		{"cancelled", nil, context.Canceled, "canceled", "context canceled"},
		{"too late", nil, context.DeadlineExceeded, "timeout", "context deadline exceeded"},
		{"cut off", &http.Response{StatusCode: 200, Body: endsWith(errors.New("reset"))}, nil, "*errors.errorString", "reset"},
		{"all well", &http.Response{StatusCode: 200, Body: endsWith(io.EOF)}, nil, "", ""},
		{"empty", &http.Response{StatusCode: 204, Body: http.NoBody}, nil, "", ""},
	} {
		exporter := spans(t)
		req, _ := http.NewRequestWithContext(t.Context(), "BREW", "http://pot/", nil)
		resp, err := telemetry.Transport(roundTripper(func(*http.Request) (*http.Response, error) { return tt.resp, tt.err })).RoundTrip(req)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
		}
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		got := only(t, exporter, 1)[0]
		a := attributes(got)
		if got.Name != "HTTP" || a["http.request.method"] != "_OTHER" || a["http.request.method_original"] != "BREW" {
			t.Errorf("%s: span %s of method %s", tt.name, got.Name, a["http.request.method"])
		}
		if a["error.type"] != tt.kind || got.Status.Description != tt.text || (got.Status.Code == codes.Error) != (tt.kind != "") {
			t.Errorf("%s: %q, %+v, want %q, %q", tt.name, a["error.type"], got.Status, tt.kind, tt.text)
		}
	}
}

func endsWith(err error) io.ReadCloser {
	return io.NopCloser(io.MultiReader(strings.NewReader("x"), iotest.ErrReader(err)))
}

func TestAnUpgradedConnectionStaysWritable(t *testing.T) {
	exporter := spans(t)
	srv := serve(t, telemetry.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(conn, rw)
	})))
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := telemetry.Transport(nil).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	conn, ok := resp.Body.(interface {
		io.ReadWriteCloser
		CloseWrite() error
	})
	if !ok {
		t.Fatalf("the body is a %T", resp.Body)
	}
	_, _ = io.WriteString(conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("the echo is %q, %v", got, err)
	}
	conn.Close()
	for _, s := range only(t, exporter, 2) {
		if a := attributes(s); a["http.response.status_code"] != "101" {
			t.Errorf("%s span has %v", s.SpanKind, a)
		}
	}
}

func TestTheKindOfASpanShowsWhereTheCallComesFrom(t *testing.T) {
	exporter := spans(t)
	ctx, outer := telemetry.Start(t.Context(), "outer", "user")
	_, inner := telemetry.Start(ctx, "inner", "user")
	inner.End(errors.New("no"))
	outer.End(nil)
	got := only(t, exporter, 2)
	if got[0].SpanKind != trace.SpanKindInternal || got[1].SpanKind != trace.SpanKindServer {
		t.Errorf("inner is %v, outer %v", got[0].SpanKind, got[1].SpanKind)
	}
	if got[0].Status.Code != codes.Error || got[0].Status.Description != "no" || got[1].Status.Code != codes.Unset {
		t.Errorf("inner ended %v, outer %v", got[0].Status, got[1].Status)
	}
}
