package daemon

import (
	"io"
	"log/slog"
)

// LogFlags are the level and the format of the log.
type LogFlags struct {
	LogLevel  string `enum:"debug,info,warn,error" default:"info" placeholder:"LEVEL" help:"Lowest level that is logged: debug, info, warn or error (${default})."`
	LogFormat string `enum:"text,json" default:"text" placeholder:"FORMAT" help:"Format of log lines: text or json (${default})."`
}

// Logger returns a logger that writes to w.
func (f LogFlags) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if level.UnmarshalText([]byte(f.LogLevel)) != nil {
		level = slog.LevelInfo // kong accepts only the levels above
	}
	options := &slog.HandlerOptions{Level: level}
	if f.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
