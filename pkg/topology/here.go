package topology

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
)

// said are the lines that Here has logged.
var said sync.Map

// Here is where this process runs, by its [Environment]. It logs what it found and from
// which variables, or what to set, once per process and place.
func Here(ctx context.Context, log *slog.Logger) Location {
	found := Detect(ctx, Environment(os.Getenv)...)
	if err := errors.Join(found.Errors...); err != nil {
		if once(err.Error()) {
			log.Warn("a location variable is not valid and is ignored", "location", found.Location.String(), "error", err)
		}
		return found.Location
	}
	switch {
	case !once(found.Location.String()):
	case found.Location == (Location{}):
		log.Info("it is not known where this process runs, so nothing is near it: set PROXIMA_REGION and PROXIMA_ZONE")
	default:
		log.Info("this process runs where its environment says", "location", found.Location.String(), "variables", found.variables())
	}
	return found.Location
}

func once(line string) bool {
	_, again := said.LoadOrStore(line, true)
	return !again
}

// variables are the variables of the environment that say where the process runs.
func (d *Detection) variables() string {
	var names []string
	for _, f := range d.Location.fields() {
		if by, ok := strings.CutPrefix(d.Won[f.level], "env "); ok {
			names = append(names, by+"_"+strings.ToUpper(string(f.level)))
		}
	}
	return strings.Join(names, ", ")
}
