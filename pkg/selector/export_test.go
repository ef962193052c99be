package selector

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

// Tables says how often the tables of a service were made.
func (s *Selector) Tables(service string) int {
	return int((*s.services.Load())[service].generation.Load())
}

// Views says from how many other places a service is seen.
func (s *Selector) Views(service string) int {
	return len(*(*s.services.Load())[service].views.Load())
}

// Hear takes in what is said on the subject of a beat.
func (s *Selector) Hear(service, subject string, data []byte) {
	(*s.services.Load())[service].beat(subject, data)
}
