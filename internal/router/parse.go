package router

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// badRequest is what the caller did wrong: which field, and what is wanted.
type badRequest struct{ field, value, rule string }

func (e *badRequest) Error() string {
	v := e.value
	if len(v) > 80 {
		v = v[:80] + "…"
	}
	return fmt.Sprintf("%s %q: %s", e.field, v, e.rule)
}

// parseFrom reads the place of a caller, region/zone. An empty one is none:
// then the router's own place counts.
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

// parseLimit reads how many instances are wanted; 0 is all.
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

// parsePath reads the path, and perhaps query, of a call by NATS. The answer
// has neither scheme nor host.
func parsePath(s string) (*url.URL, error) {
	if s == "" {
		s = "/"
	}
	bad := &badRequest{headerPath, s, "want a path such as /users/7?full=1, in printable ASCII"}
	if s[0] != '/' || len(s) > maxPath || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, bad
	}
	u, err := url.ParseRequestURI(s)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return nil, bad
	}
	return u, nil
}

const maxPath = 16 << 10

// parseMethod reads the method of a call by NATS. POST is what is usual for a
// payload and an answer.
func parseMethod(s string) (string, error) {
	switch {
	case s == "":
		return http.MethodPost, nil
	case len(s) > 32 || !isToken(s) || s == http.MethodConnect:
		return "", &badRequest{headerMethod, s, "want an HTTP method such as GET, not CONNECT"}
	}
	return s, nil
}

// isToken says whether s can be a method or a header's name: RFC 9110, 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// isFieldValue says whether s can be the value of a header.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
