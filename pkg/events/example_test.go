package events_test

import (
	"fmt"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func Example() {
	record, err := events.Encode(events.Instance{
		ID:        "user-7f3a",
		Service:   "user",
		Endpoints: map[string]string{events.HTTP: "10.0.0.5:8080"},
		Location:  topology.Location{Region: "us-east-1", Zone: "us-east-1a"},
		Started:   time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", record)

	in, err := events.Decode(record)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(in.Key().Inst())

	_, err = events.Decode([]byte(`{"id":"user.7f3a","service":"user"}`))
	fmt.Println(err)
	// Output:
	// {"id":"user-7f3a","service":"user","endpoints":{"http":"10.0.0.5:8080"},"location":{"region":"us-east-1","zone":"us-east-1a"},"status":"up","weight":100,"started":"2026-11-21T08:00:00Z","ttl":"15s"}
	// inst.user.us-east-1.us-east-1a.user-7f3a
	// events: id "user.7f3a": want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'
}
