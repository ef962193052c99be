package faults

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Bounds are what a case promises. The zero value has the defaults.
type Bounds struct {
	// Blind is how late a caller may see a change that the registry has
	// acknowledged. Default 3s: a reconnect takes under one, on a machine that
	// has nothing else to do.
	Blind time.Duration
	// Heal is how long it may take after the story until every caller sees
	// exactly the living instances. Default 30s.
	Heal time.Duration
	// Ghost is how long after the end of its lease a dead instance may still
	// be listed or picked. Default 3s: one, on a machine that has nothing
	// else to do.
	Ghost time.Duration
}

func (b Bounds) withDefaults() Bounds {
	for _, x := range []struct {
		d   *time.Duration
		def time.Duration
	}{{&b.Blind, 3 * time.Second}, {&b.Heal, 30 * time.Second}, {&b.Ghost, 3 * time.Second}} {
		if *x.d == 0 {
			*x.d = x.def
		}
	}
	return b
}

// Recorder is told what is true and what every caller sees, and finds what
// must not be. It is safe for concurrent use.
type Recorder struct {
	mu     sync.Mutex // guards everything, also of sights
	bounds Bounds
	began  time.Time          // of the case
	living map[string]bool    // instances that the registry has acknowledged
	dead   map[string]death   // those that ended without deregistering
	acks   []ack              // of changes, in order
	sights map[string]*Sight  // by the name of the caller
	lives  int                // how often the stream may have begun anew
	broken bool               // there is a fault now
	healed time.Time          // when the last one ended
	wrong  map[string]mistake // by what is wrong, and the name
}

// death is when an instance died, and how long its lease is.
type death struct {
	at  time.Time
	ttl time.Duration
}

// ack is when the registry acknowledged the change with that number.
type ack struct {
	n  uint64
	at time.Time
}

// mistake is one violation, and how often it was seen.
type mistake struct {
	first string
	last  time.Time
	times int
}

// NewRecorder is a recorder of a world without instances.
func NewRecorder() *Recorder {
	return &Recorder{
		bounds: Bounds{}.withDefaults(), began: time.Now(),
		living: map[string]bool{}, dead: map[string]death{},
		sights: map[string]*Sight{}, wrong: map[string]mistake{},
	}
}

// Begin forgets what was measured and found, not what is known: a new case.
func (r *Recorder) Begin(b Bounds) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bounds, r.began, r.wrong = b.withDefaults(), time.Now(), map[string]mistake{}
	old := max(0, len(r.acks)-1)
	r.acks = slices.Clone(r.acks[old:])
	for _, s := range r.sights {
		s.seen = max(0, s.seen-old)
		s.blind, s.picks, s.staleFor = 0, 0, 0
	}
}

// Lives says that the registry has acknowledged an instance.
func (r *Recorder) Lives(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.living[id] = true
	delete(r.dead, id)
}

// Leaves says that an instance is about to deregister.
func (r *Recorder) Leaves(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(id)
}

// Dies records that an instance was killed.
func (r *Recorder) Dies(id string, ttl time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(id)
	r.dead[id] = death{time.Now(), ttl}
}

func (r *Recorder) forget(id string) {
	delete(r.living, id)
	for _, s := range r.sights {
		delete(s.known, id)
		delete(s.pickable, id)
	}
}

// Acked says that the registry has acknowledged the change with that number.
// Numbers grow.
func (r *Recorder) Acked(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acks = append(r.acks, ack{n, time.Now()})
	for _, s := range r.sights {
		if s.seen == len(r.acks)-1 && s.number >= n {
			s.seen++ // it was faster than the acknowledgement
		}
	}
}

// NewLife says that the stream begins anew, so that revisions may go back once.
func (r *Recorder) NewLife() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lives++
}

// Broken begins a fault: while it lasts, a dead instance may stay listed.
func (r *Recorder) Broken() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = true
}

// Healed ends the fault: an instance that died meanwhile must be gone when its
// lease, counted from now, has ended.
func (r *Recorder) Healed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken, r.healed = false, time.Now()
}

// Check looks at what only time makes wrong: changes that were not seen, dead
// instances that are still listed. It is to be called often.
func (r *Recorder) Check() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sights {
		s.overdue()
		s.ghosts()
	}
}

// Violations is what was found in this case, sorted.
func (r *Recorder) Violations() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, m := range r.wrong {
		text := m.first
		if m.times > 1 {
			text += fmt.Sprintf(" (and %d times more, until %.2f s)", m.times-1, m.last.Sub(r.began).Seconds())
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

// found notes a violation, with r.mu held. Those of one kind by one caller are
// one, told as the first of them was.
func (r *Recorder) found(kind, name, format string, args ...any) {
	key := kind + " " + name
	m := r.wrong[key]
	if m.times++; m.times == 1 {
		m.first = fmt.Sprintf("%s, at %.2f s: ", name, time.Since(r.began).Seconds()) + fmt.Sprintf(format, args...)
	}
	m.last = time.Now()
	r.wrong[key] = m
}

// expired says whether an instance is dead for longer than may be, and for how
// long. r.mu is held.
func (r *Recorder) expired(id string) (time.Duration, bool) {
	d, dead := r.dead[id]
	if !dead || r.broken {
		return 0, false
	}
	from := d.at
	if r.healed.After(from) {
		from = r.healed
	}
	return time.Since(d.at), time.Since(from) > d.ttl+r.bounds.Ghost
}

// Sight is what one caller sees.
type Sight struct {
	r    *Recorder
	name string

	last      events.Snapshot
	told      bool                // there was a snapshot
	known     map[string]bool     // living instances that it has listed
	pickable  map[string]bool     // and those that its selector has
	revisions map[string]revision // by key
	seen      int                 // how many of r.acks
	number    uint64              // of the newest change that it has seen
	stale     time.Time           // since when it is; zero: it is not

	blind    time.Duration // the latest that it saw a change
	picks    int
	staleFor time.Duration
}

// revision is the newest of a record, and how often it went back.
type revision struct {
	seq   uint64
	falls int
}

// Sight is that of the caller with this name; it is made when there is none.
func (r *Recorder) Sight(name string) *Sight {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sights[name]
	if s == nil {
		s = &Sight{
			r: r, name: name, seen: len(r.acks),
			known: map[string]bool{}, pickable: map[string]bool{}, revisions: map[string]revision{},
		}
		r.sights[name] = s
	}
	return s
}

// Gone says that the caller is no more.
func (s *Sight) Gone() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	delete(s.r.sights, s.name)
}

// Saw takes in a snapshot. Number is that of the newest change in it, 0 for none.
func (s *Sight) Saw(snapshot events.Snapshot, number uint64) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.last, s.told = snapshot, true
	s.turn(snapshot.Stale)
	if snapshot.Stale && (snapshot.StaleSince.IsZero() || snapshot.StaleSince.After(time.Now())) {
		s.r.found("age", s.name, "the view is stale since %v", snapshot.StaleSince)
	}
	listed := make(map[string]bool, len(snapshot.Entries))
	for i := range snapshot.Entries {
		e := &snapshot.Entries[i]
		listed[e.ID] = true
		if s.r.living[e.ID] {
			s.known[e.ID] = true
		}
		s.order(e)
	}
	for id := range s.known {
		if !listed[id] {
			s.r.found("lost", s.name, "%s lives and is not listed any more", id)
		}
	}
	s.reach(number)
	s.ghosts()
}

// turn takes note of whether the view is stale.
func (s *Sight) turn(stale bool) {
	switch {
	case stale && s.stale.IsZero():
		s.stale = time.Now()
	case !stale && !s.stale.IsZero():
		s.staleFor += time.Since(s.stale)
		s.stale = time.Time{}
	}
}

// order compares the revision of an entry with that before.
func (s *Sight) order(e *events.Entry) {
	key := e.Key().String()
	before := s.revisions[key]
	if e.Revision < before.seq {
		if before.falls++; before.falls > s.r.lives {
			s.r.found("order", s.name, "the revision of %s went back from %d to %d", e.ID, before.seq, e.Revision)
		}
	}
	s.revisions[key] = revision{e.Revision, before.falls}
}

// reach measures how late the changes up to number were seen.
func (s *Sight) reach(number uint64) {
	s.number = max(s.number, number)
	for ; s.seen < len(s.r.acks) && s.r.acks[s.seen].n <= s.number; s.seen++ {
		s.late(time.Since(s.r.acks[s.seen].at), s.r.acks[s.seen].n)
	}
}

// overdue measures the oldest change that was not seen yet.
func (s *Sight) overdue() {
	if s.seen < len(s.r.acks) {
		s.late(time.Since(s.r.acks[s.seen].at), s.r.acks[s.seen].n)
	}
}

func (s *Sight) late(by time.Duration, number uint64) {
	s.blind = max(s.blind, by)
	if by > s.r.bounds.Blind {
		s.r.found("blind", s.name, "change %d was not seen %v after it was acknowledged", number, by.Round(time.Millisecond))
	}
}

// ghosts looks for dead instances in the view.
func (s *Sight) ghosts() {
	if len(s.r.dead) == 0 || s.last.Stale {
		return // what is stale says so
	}
	for i := range s.last.Entries {
		e := &s.last.Entries[i]
		if age, over := s.r.expired(e.ID); over && !e.Suspect {
			s.r.found("ghost", s.name, "%s is listed %v after its death", e.ID, age.Round(time.Millisecond))
		}
	}
}

// Picked takes in a pick and how it ended.
func (s *Sight) Picked(id string, err error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.picks++
	if err != nil {
		if len(s.pickable) > 0 {
			s.r.found("pick", s.name, "a pick failed while %d instances live: %v", len(s.pickable), err)
		}
		return
	}
	if age, over := s.r.expired(id); over {
		s.r.found("ghost pick", s.name, "%s was picked %v after its death", id, age.Round(time.Millisecond))
	}
	if s.r.living[id] {
		s.pickable[id] = true
	}
}

// Explained takes in all instances that the selector knows.
func (s *Sight) Explained(ids []string) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	has := make(map[string]bool, len(ids))
	for _, id := range ids {
		has[id] = true
		if s.r.living[id] {
			s.pickable[id] = true
		}
	}
	for id := range s.pickable {
		if !has[id] {
			s.r.found("lost pick", s.name, "%s lives and is not known to the selector any more", id)
		}
	}
}

// whole says what the caller does not see as it is, "" if nothing.
func (s *Sight) whole() string {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	switch {
	case !s.told:
		return s.name + " has seen nothing yet"
	case s.last.Stale:
		return s.name + " has a stale view"
	}
	usable := map[string]bool{}
	for i := range s.last.Entries {
		if e := &s.last.Entries[i]; !e.Suspect {
			usable[e.ID] = true
		}
	}
	for id := range s.r.living {
		if !usable[id] {
			return fmt.Sprintf("%s does not see %s, or holds it for a suspect", s.name, id)
		}
	}
	for id := range s.r.dead {
		if usable[id] {
			return fmt.Sprintf("%s still sees %s, which is dead", s.name, id)
		}
	}
	if s.seen < len(s.r.acks)-1 { // the newest may be on its way
		return fmt.Sprintf("%s has not seen the newest changes", s.name)
	}
	return ""
}

// Stale says whether the caller's last view says that the registry is out of reach.
func (s *Sight) Stale() bool {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return s.last.Stale
}

// Figures are what was measured in a case.
type Figures struct {
	// Blind is how late each caller saw a change at the latest, sorted.
	Blind []time.Duration
	// Mute is the longest time between two changes that the registry
	// acknowledged: no write succeeded.
	Mute    time.Duration
	Changes int
	Picks   int
	// Stale is the longest that a caller's view was stale.
	Stale time.Duration
}

// Figures of this case so far.
func (r *Recorder) Figures() Figures {
	r.mu.Lock()
	defer r.mu.Unlock()
	var f Figures
	for i := 1; i < len(r.acks); i++ {
		f.Mute = max(f.Mute, r.acks[i].at.Sub(r.acks[i-1].at))
	}
	f.Changes = max(0, len(r.acks)-1)
	for _, s := range r.sights {
		f.Blind = append(f.Blind, s.blind)
		f.Picks += s.picks
		f.Stale = max(f.Stale, s.staleFor)
	}
	slices.Sort(f.Blind)
	return f
}

// String is one line for people.
func (f Figures) String() string {
	text := fmt.Sprintf("%d changes, the longest time without one %v; %d picks; stale for %v at most",
		f.Changes, f.Mute.Round(time.Millisecond), f.Picks, f.Stale.Round(time.Millisecond))
	if n := len(f.Blind); n > 0 {
		text += fmt.Sprintf("; %d callers saw a change late by p50 %v, max %v",
			n, f.Blind[n/2].Round(time.Millisecond), f.Blind[n-1].Round(time.Millisecond))
	}
	return text
}

// Dead says whether an instance has died.
func (r *Recorder) Dead(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, dead := r.dead[id]
	return dead
}
