package policy

import (
	"fmt"
	"time"
)

// Document is a policy as a registry keeps it.
type Document struct {
	// Name is that of the service, or [Default].
	Name string
	// Policy is the last good one, nil if there is none. It is shared: do not change it.
	Policy *Policy
	// Revision and At are the number of its message in the registry, and when it was
	// written, by the clock of the registry or of the program that wrote it.
	Revision uint64
	At       time.Time
	// Data is the JSON of Policy, as it was written.
	Data []byte
	// Err is why the newest document is not used, and Policy, an older one, is: it cannot be
	// read. It is an *[UnreadableError] if a registry keeps that document. Nil when all is well.
	Err error
}

// UnreadableError is the error of a document that a registry keeps and that cannot be read.
type UnreadableError struct {
	Revision uint64 // of the document
	At       time.Time
	Data     []byte // as it was written
	Err      error  // why
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("revision %d cannot be read: %v", e.Revision, e.Err)
}

func (e *UnreadableError) Unwrap() error { return e.Err }

// Current is what holds for a service: its own policy, over that for all services.
type Current struct{ Default, Service Document }

// Policy is both in one. It is never nil.
func (c *Current) Policy() *Policy { return Merge(c.Default.Policy, c.Service.Policy) }
