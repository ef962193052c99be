package regions

// reading is how well another region is read. The processes that maintain it publish it.
type reading struct {
	Born  int64  `json:"born"`           // when our stream was made
	Made  int64  `json:"made"`           // when its consumer in the other region was made
	Epoch int64  `json:"epoch"`          // of the source; it grows
	Count uint64 `json:"count"`          // of what was delivered since the consumer was last wound back
	Seen  uint64 `json:"seen"`           // the sequence, in the other region, of the last message that was stored here
	Safe  uint64 `json:"safe"`           // the same some seconds before: nothing up to it is missing
	Away  bool   `json:"away,omitempty"` // it was out of reach
	Vain  int    `json:"vain,omitempty"` // how often in a row it was begun anew
	Skip  int    `json:"skip,omitempty"` // looks to let pass before that is done again
}

// look is what one look at a region finds.
type look struct {
	reached bool  // it answers
	sourced bool  // our stream has it as a source
	silent  bool  // and has not heard of it lately
	born    int64 // as in reading
	made    int64
	epoch   int64
	count   uint64
	seen    uint64 // 0: nothing from that source
	told    uint64 // the last sequence that it has delivered
	tells   bool   // its consumer sends policies
	takes   bool   // our source stores them
}

// narrow reports whether the region is read as it was by programs that knew of no policies,
// while it sends them by now.
func (is look) narrow() bool { return is.reached && is.sourced && is.tells && !is.takes }

// next is what is known after a look, and whether the source is to be begun anew,
// after the message Safe.
//
// The servers go on by themselves after an outage, but not well enough. A server that
// asks for its consumer while the way is closed waits five seconds for an answer, and
// then ever longer until it asks again. And a message that was sent on a dead
// connection may be lost: a message that was delivered and not acknowledged counts as
// acknowledged when it is replaced in its bucket, and with it all that was delivered
// before (nats-server 2.15.2; see docs/decisions/0019).
func (was reading) next(is look) (reading, bool) {
	now := was
	if !is.reached {
		now.Away = true
		return now, false
	}
	known := was.Epoch != 0 && is.born == was.Born // else it is not known what was before
	now.Safe = min(was.Safe, is.told)
	if !known {
		now.Safe = 0
	}
	switch {
	case known && is.sourced && is.epoch > was.Epoch:
		// Another process has begun anew.
		return reading{Born: is.born, Made: is.made, Epoch: is.epoch, Count: is.count, Seen: is.seen, Vain: was.Vain}, false
	case was.Skip > 0 && (is.silent || !is.sourced || was.Away && was.Vain > 2): // or it comes and goes
		now.Skip--
		return now, false
	case !is.sourced, is.silent, was.Away,
		known && (is.epoch < was.Epoch || is.made != was.Made || is.count < was.Count):
		now.Born, now.Made = is.born, is.made
		return now, true
	}
	now = reading{Born: is.born, Made: is.made, Epoch: is.epoch, Count: is.count, Seen: min(max(was.Seen, is.seen), is.told)}
	if known {
		now.Safe = min(was.Seen, is.told)
	} else {
		now.Seen = min(is.seen, is.told)
	}
	return now, false
}

// begun is what is known when the source was begun anew.
func (was reading) begun(epoch int64) reading {
	vain := min(was.Vain+1, maxFailedRestarts)
	return reading{Born: was.Born, Made: was.Made, Epoch: epoch, Safe: was.Safe, Seen: was.Safe, Vain: vain, Skip: 1<<(vain-1) - 1}
}
