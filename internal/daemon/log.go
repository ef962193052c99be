package daemon

import (
	"io"
	"log/slog"
)

// LogFlags say what is logged and how.
type LogFlags struct {
	LogLevel  string `enum:"debug,info,warn,error" default:"info" placeholder:"LEVEL" help:"Least level that is logged: debug, info, warn or error (${default})."`
	LogFormat string `enum:"text,json" default:"text" placeholder:"FORMAT" help:"How log lines look: text or json (${default})."`
}

// Logger writes to w as the flags say.
func (f LogFlags) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if level.UnmarshalText([]byte(f.LogLevel)) != nil {
		level = slog.LevelInfo // not reached by way of flags: they are checked
	}
	options := &slog.HandlerOptions{Level: level}
	if f.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
