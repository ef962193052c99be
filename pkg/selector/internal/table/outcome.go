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

	// What is counted beside the outcomes.
	Broken    = NumOutcomes     // a Fault after the instance had answered, which is a Success too
	Forgotten = NumOutcomes + 1 // given up, see [Node.GiveUp]
	NumCounts = NumOutcomes + 2
)
