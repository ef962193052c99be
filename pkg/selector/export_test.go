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
