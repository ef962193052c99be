package selector

import "github.com/proxima-discovery/proxima/pkg/topology"

// Hold locks the selector and the service, as their slowest changes do, until
// release is called.
func (s *Selector) Hold(service string) (release func()) {
	svc := (*s.services.Load())[service]
	s.mu.Lock()
	svc.mu.Lock()
	return func() {
		svc.mu.Unlock()
		s.mu.Unlock()
	}
}

// Tables is how often the tables of a service were built.
func (s *Selector) Tables(service string) int {
	return int((*s.services.Load())[service].generation.Load())
}

// Views is the number of other places from which a service is seen.
func (s *Selector) Views(service string) int {
	return len(*(*s.services.Load())[service].rules.Load().vantages.Load())
}

// Sees reports whether the vantage of a service from a place is kept.
func (s *Selector) Sees(service string, from topology.Location) bool {
	return (*(*s.services.Load())[service].rules.Load().vantages.Load())[place{from: s.fields.of(from)}] != nil
}

// Hear receives a message on the subject of a beat.
func (s *Selector) Hear(service, subject string, data []byte) {
	(*s.services.Load())[service].beat(subject, data)
}

// Subsets is the number of subsets of a service that have tables.
func (s *Selector) Subsets(service string) (n int) {
	svc := (*s.services.Load())[service]
	svc.mu.Lock()
	defer svc.mu.Unlock()
	for _, v := range svc.subsets.views {
		if v != nil {
			n++
		}
	}
	return n
}

// Texts is the number of texts of expressions that are kept for a service.
func (s *Selector) Texts(service string) int {
	return len(*(*s.services.Load())[service].subsets.texts.Load())
}

// Cores is how many cores further selectors of the process may join.
func Cores() (n int) {
	cores.Lock()
	defer cores.Unlock()
	for _, list := range cores.by {
		n += len(list)
	}
	return n
}

// StrategyFor is the strategy of a selector that states one and shares the service.
func (s *Selector) StrategyFor(service string, stated Strategy) Strategy {
	return (*s.services.Load())[service].rules.Load().strategyFor(stated)
}
