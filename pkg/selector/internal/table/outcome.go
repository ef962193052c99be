package table

// Outcome is what the end of a call says of its instance.
type Outcome uint8

// The outcomes, see those of package selector.
const (
	Success Outcome = iota
	Answer
	Backpressure
	Fault
	Canceled
	Local
	NumOutcomes
)
