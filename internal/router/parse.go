package router

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// badRequest is a mistake of the caller: the field, its value, and what is wanted.
type badRequest struct{ field, value, rule string }

func (e *badRequest) Error() string {
	v := e.value
	if len(v) > 80 {
		v = v[:80] + "…"
	}
	return fmt.Sprintf("%s %q: %s", e.field, v, e.rule)
}

// parseFrom reads the location of a caller, region/zone. It returns nil for an
// empty one: then the router's own location counts.
func parseFrom(field, s string) (*topology.Location, error) {
	if s == "" {
		return nil, nil
	}
	l, err := topology.ParseLocation(s)
	if err != nil {
		return nil, &badRequest{field, s, "want region/zone, each 1 to 63 of A-Z, a-z, 0-9, '_' and '-', or '_' when it is unknown"}
	}
	return &l, nil
}

// queryOf reads the query of a request at a path that knows these parameters. One that is not
// known, or is there twice, is refused as a mistake: it would be ignored.
func queryOf(req *http.Request, known ...string) (url.Values, error) {
	q, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return nil, &badRequest{"query", req.URL.RawQuery, "want name=value, joined by &"}
	}
	for _, name := range slices.Sorted(maps.Keys(q)) {
		switch {
		case len(known) == 0:
			return nil, &badRequest{"query", name, "there are no parameters here"}
		case !slices.Contains(known, name):
			return nil, &badRequest{"query", name, "want " + strings.Join(known, ", ")}
		case len(q[name]) > 1:
			return nil, &badRequest{"query", name, "want it once"}
		}
	}
	return q, nil
}

// parseLimit reads how many instances are wanted; 0 stands for all.
func parseLimit(field, s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n == 0 {
		return 0, &badRequest{field, s, "want a whole number from 1"}
	}
	return int(n), nil
}

// parsePath reads the path of a call by NATS, with or without a query. The result
// has neither scheme nor host.
func parsePath(s string) (*url.URL, error) {
	if s == "" {
		s = "/"
	}
	bad := &badRequest{headerPath, s, "want a path such as /users/7?full=1, without spaces"}
	if s[0] != '/' || len(s) > maxPath || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, bad
	}
	u, err := url.ParseRequestURI(s)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return nil, bad
	}
	return u, nil
}

const maxPath = 16 << 10

// parseMethod reads the method of a call by NATS. The default is POST, which fits
// a payload and an answer.
func parseMethod(s string) (string, error) {
	switch {
	case s == "":
		return http.MethodPost, nil
	case len(s) > 32 || !httpguts.ValidHeaderFieldName(s) || s == http.MethodConnect:
		return "", &badRequest{headerMethod, s, "want an HTTP method such as GET, not CONNECT"}
	}
	return s, nil
}
