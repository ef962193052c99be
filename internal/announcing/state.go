package announcing

import "time"

// SourceState is what is known of a source that lists instances.
type SourceState struct {
	Source    string    // its kind: file
	At        time.Time // when it was last read and valid
	Instances int       // announced for it
	Held      int       // of these, not listed any more, see [Doubt]
	Refused   uint64    // statements that were not valid
	Err       error     // of the last statement, nil if it was valid
}
