package daemon

import (
	"encoding/json"
	"maps"
	"net/http"
)

// HandleHealth adds the paths for the state of a program:
//
//   - /healthz answers {"ok":true} while the program runs;
//   - /readyz answers {"ready":true}, or 503 with {"ready":false,"reason":…} when
//     ready returns an error; details, if not nil, adds fields;
//   - /metrics answers with metrics.
func HandleHealth(mux *http.ServeMux, ready func() error, details func() map[string]any, metrics http.Handler) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]bool{"ok": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		fields, status := map[string]any{}, http.StatusOK
		if details != nil {
			maps.Copy(fields, details())
		}
		err := ready()
		fields["ready"] = err == nil
		if err != nil {
			fields["reason"], status = err.Error(), http.StatusServiceUnavailable
		}
		answer(w, status, fields)
	})
	mux.Handle("GET /metrics", metrics)
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only when the client has gone
}
