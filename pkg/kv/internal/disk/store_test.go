package disk

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Some file systems ignore case, and none takes names of more than 255 bytes.
func TestNoTwoServicesShareAFile(t *testing.T) {
	long := strings.Repeat("A", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("C", 63) + "."
	services := []string{
		"user", "payments.user", "payments.User", "Payments.user", "payments.uSER", "helloworld.Greeter", "helloworld.greeter",
		long + strings.Repeat("d", 61), long + strings.Repeat("d", 60) + "e", long + strings.Repeat("D", 61), strings.ToLower(long) + strings.Repeat("d", 61),
		long + "d",
	}
	s, err := Open(t.TempDir(), "proxima", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, service := range services {
		if err := events.ValidateService(service); err != nil {
			t.Fatal(err)
		}
		name := fileName(service)
		if folded := strings.ToLower(name); files[folded] != "" || len(name) > maxName {
			t.Errorf("%s is in %s, of %d bytes, as is %s", service, name, len(name), files[folded])
		} else {
			files[folded] = service
		}
		in, err := events.Decode([]byte(strings.Replace(body, `"user"`, `"`+service+`"`, 1)))
		if err != nil {
			t.Fatal(err)
		}
		s.Save(events.Snapshot{Service: service, Entries: []events.Entry{{Instance: in, Revision: 1}}})
	}
	if name := fileName("user-1"); name != "user-1" {
		t.Errorf("the file of user-1 is %s, and was user-1", name)
	}
	s.flush()
	if all := s.Load(""); len(all) != len(services) {
		t.Errorf("%d of %d services are read", len(all), len(services))
	}
	for _, service := range services {
		if all := s.Load(service); len(all) != 1 || all[0].Service != service || all[0].Entries[0].Service != service {
			t.Errorf("%s is read as %+v", service, all)
		}
	}
}
