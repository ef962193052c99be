package breaker_test

import (
	"errors"
	"fmt"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

func Example() {
	b := breaker.New(
		breaker.Key{Service: "user", Instance: "user-7f3a", Incarnation: "1"},
		&breaker.Settings{
			Failures: 2,
			OnChange: func(k breaker.Key, from, to breaker.State) {
				fmt.Printf("%s: %v to %v\n", k.Instance, from, to)
			},
		},
	)
	defer b.Close()

	for range 3 {
		pass, err := b.Allow()
		if err != nil {
			fmt.Println(err) // call another instance
			continue
		}
		// Here the instance is called.
		pass.Done(errors.New("502 Bad Gateway"))
	}
	// Output:
	// user-7f3a: closed to open
	// breaker: open
}
