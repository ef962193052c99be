package proximahttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func Example() {
	here := topology.Location{Region: "us-east-1", Zone: "us-east-1a"}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", r.URL.Query().Get("name"))
	}))
	defer srv.Close()

	// A list in place of the registry. With a NATS connection:
	// selector.New(ctx, nc, selector.Options{})
	sel, err := selector.New(context.Background(), nil, selector.Options{Location: here, Source: selector.Static(events.Instance{
		ID: "user-1", Service: "user", Location: here,
		Endpoints: map[string]string{events.HTTP: srv.Listener.Addr().String()},
	})})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sel.Close()

	client := &http.Client{Transport: proximahttp.New(sel, proximahttp.Options{})}
	resp, err := client.Get("http://user/hello?name=Ada")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s from %s", body, proximahttp.Instance(resp).ID)
	// Output: hello Ada from user-1
}
