package daemon

import (
	"encoding/json"
	"net/http"
)

// HandleHealth adds the paths for the state of a program:
//
//   - /healthz answers {"ok":true} while the program runs;
//   - /readyz answers {"ready":true}, or 503 with {"ready":false,"reason":…} when
//     ready returns an error;
//   - /metrics answers with metrics.
func HandleHealth(mux *http.ServeMux, ready func() error, metrics http.Handler) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]bool{"ok": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			answer(w, http.StatusServiceUnavailable, readiness{Reason: err.Error()})
			return
		}
		answer(w, http.StatusOK, readiness{Ready: true})
	})
	mux.Handle("GET /metrics", metrics)
}

type readiness struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only when the client has gone
}
