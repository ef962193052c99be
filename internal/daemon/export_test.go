package daemon

import "time"

// Flush is how long Shutdown waits for a collector at most. SetFlush changes it.
func (t *Telemetry) Flush() time.Duration { return t.flush }

func (t *Telemetry) SetFlush(limit time.Duration) { t.flush = limit }
