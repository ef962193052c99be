package router_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/router"
)

// description is what these tests read of an OpenAPI document.
type description struct {
	OpenAPI    string                          `json:"openapi"`
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas map[string]*schema `json:"schemas"`
	} `json:"components"`
}

type operation struct {
	RequestBody content            `json:"requestBody"`
	Responses   map[string]content `json:"responses"`
}

type content struct {
	Content map[string]struct {
		Schema *schema `json:"schema"`
	} `json:"content"`
}

type schema struct {
	Ref        string             `json:"$ref"`
	Type       string             `json:"type"`
	Enum       []any              `json:"enum"`
	Required   []string           `json:"required"`
	Properties map[string]*schema `json:"properties"`
	Additional json.RawMessage    `json:"additionalProperties"`
	Items      *schema            `json:"items"`
}

// misfit returns what a value has that its schema does not say. Fields that the schema does
// not know are a misfit too: the document is to be complete.
func (d *description) misfit(at string, s *schema, v any) string {
	if name, is := strings.CutPrefix(s.Ref, "#/components/schemas/"); is {
		if s = d.Components.Schemas[name]; s == nil {
			return at + ": there is no schema " + name
		}
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return fmt.Sprintf("%s: %v is none of %v", at, v, s.Enum)
	}
	fits := false
	switch v := v.(type) {
	case map[string]any:
		for _, name := range s.Required {
			if _, has := v[name]; !has {
				return at + ": there is no " + name
			}
		}
		for name, value := range v {
			below := s.Properties[name]
			if below == nil && (s.Properties == nil || len(s.Additional) > 0 && string(s.Additional) != "false") {
				continue
			}
			if below == nil {
				return at + ": unknown field " + name
			}
			if m := d.misfit(at+"."+name, below, value); m != "" {
				return m
			}
		}
		fits = s.Type == "object"
	case []any:
		for _, value := range v {
			if m := d.misfit(at+"[]", s.Items, value); m != "" {
				return m
			}
		}
		fits = s.Type == "array"
	case string:
		fits = s.Type == "string"
	case bool:
		fits = s.Type == "boolean"
	case float64:
		fits = s.Type == "number" || s.Type == "integer" && v == float64(int64(v))
	}
	if !fits {
		return fmt.Sprintf("%s: %v is no %s", at, v, s.Type)
	}
	return ""
}

func TestTheDescriptionOfTheAPIIsTrue(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	doc := decode[description](t, d.get("/v1/openapi.json").body)
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("version %s", doc.OpenAPI)
	}
	var described, served []string
	for path, operations := range doc.Paths {
		for method := range operations {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	for _, route := range d.Routes() {
		if strings.Contains(route, " /v1/") {
			served = append(served, route)
		}
	}
	slices.Sort(described)
	slices.Sort(served)
	if !slices.Equal(described, served) {
		t.Errorf("described: %v\nserved: %v", described, served)
	}

	const instance = `{"service":"user","id":"u","endpoints":{"http":"127.0.0.1:9"},"location":{"region":"r1","zone":"a"},"version":"1","weight":7,"metadata":{"a":"b"},"ttl":"1h"`
	for _, tt := range []struct {
		method, pattern, path, body string
		status                      int
	}{
		{"POST", "/v1/register", "/v1/register", instance + "}", 201},
		{"POST", "/v1/register", "/v1/register", instance + "}", 200},
		{"POST", "/v1/register", "/v1/register", strings.Replace(instance, "127.0.0.1:9", "127.0.0.1:10", 1) + "}", 409},
		{"POST", "/v1/register", "/v1/register", instance + `,"wieght":1}`, 400},
		{"GET", "/v1/services", "/v1/services", "", 200},
		{"GET", "/v1/services/{service}", "/v1/services/user?limit=1", "", 200},
		{"GET", "/v1/services/{service}", "/v1/services/other", "", 404},
		{"GET", "/v1/explain/{service}", "/v1/explain/user?from=r1/b", "", 200},
		{"PUT", "/v1/heartbeat", "/v1/heartbeat", `{"service":"user","id":"u"}`, 200},
		{"PUT", "/v1/heartbeat", "/v1/heartbeat?service=user&id=u", "", 200},
		{"PUT", "/v1/heartbeat", "/v1/heartbeat?service=user&id=u&incarnation=x", "", 409},
		{"PUT", "/v1/heartbeat", "/v1/heartbeat", "", 400},
		{"PUT", "/v1/heartbeat", "/v1/heartbeat?servic=user", "", 400},
		{"DELETE", "/v1/services/{service}/{id}", "/v1/services/user/other", "", 404},
		{"DELETE", "/v1/services/{service}/{id}", "/v1/services/user/u", `{"service":"user","id":"other"}`, 400},
		{"DELETE", "/v1/services/{service}/{id}", "/v1/services/user/u", "", 200},
		{"POST", "/v1/register", "/v1/register", instance + "}", 201},
		{"DELETE", "/v1/deregister", "/v1/deregister?service=user&id=u", "", 200},
		{"DELETE", "/v1/deregister", "/v1/deregister", `{"service":"user","id":"u"}`, 404},
		{"DELETE", "/v1/deregister", "/v1/deregister", `{"service":"user","id":"u","incarnatoin":"x"}`, 400},
	} {
		got := d.do(tt.method, tt.path, tt.body)
		if got.status != tt.status {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, got.status, got.body)
			continue
		}
		op := doc.Paths[tt.pattern][strings.ToLower(tt.method)]
		response, ok := op.Responses[fmt.Sprint(tt.status)]
		if !ok {
			response = op.Responses["default"]
		}
		kind := got.header.Get("Content-Type")
		c, ok := response.Content[kind]
		if !ok {
			t.Errorf("%s %s: %d is %s, which is not described", tt.method, tt.path, tt.status, kind)
			continue
		}
		if m := doc.misfit("answer", c.Schema, decode[any](t, got.body)); m != "" {
			t.Errorf("%s %s: %s in %s", tt.method, tt.path, m, got.body)
		}
		if tt.body != "" && tt.status < 300 {
			if m := doc.misfit("body", op.RequestBody.Content["application/json"].Schema, decode[any](t, tt.body)); m != "" {
				t.Errorf("%s %s: %s", tt.method, tt.path, m)
			}
		}
		retry := got.header.Get("Retry-After")
		if tt.status == http.StatusConflict && tt.method == "POST" && retry != "3600" || tt.status < 400 && retry != "" {
			t.Errorf("%s %s: %d with Retry-After %q", tt.method, tt.path, tt.status, retry)
		}
	}
}
