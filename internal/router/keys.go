package router

import (
	"crypto/rand"
	"net/http"
)

// keys finds the key of a call that consistent_hash hashes: a header or a cookie of it.
type keys struct {
	header string // canonical; empty: none
	cookie string // empty: none
	sticky string // cookie that callers without a key are given; empty: none
}

// of returns the key of a call, empty if it has none.
func (k *keys) of(h http.Header) string {
	if k.header != "" {
		if v := h.Get(k.header); v != "" {
			return v
		}
	}
	for _, name := range [...]string{k.cookie, k.sticky} {
		if name == "" {
			continue
		}
		// The first one counts: it is the one of the most specific path.
		if c, err := (&http.Request{Header: h}).Cookie(name); err == nil && c.Value != "" {
			return c.Value
		}
	}
	return ""
}

// newKey is a key that no other caller has.
func newKey() string { return rand.Text() }

// stick gives the caller the key of its call as a cookie, for as long as the browser runs.
func (k *keys) stick(resp *http.Response, c *passage) {
	path := c.to.prefix
	if path == "" {
		path = "/"
	}
	cookie := http.Cookie{Name: k.sticky, Value: c.key, Path: path, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: c.secure}
	resp.Header.Add("Set-Cookie", cookie.String())
}
