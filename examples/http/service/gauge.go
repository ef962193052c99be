package main

import (
	"net/http"
	"sync/atomic"
)

// gauge is the number of calls that are being served.
type gauge struct{ calls atomic.Int64 }

func (g *gauge) now() int { return int(g.calls.Load()) }

func (g *gauge) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.calls.Add(1)
		defer g.calls.Add(-1)
		next.ServeHTTP(w, r)
	})
}
