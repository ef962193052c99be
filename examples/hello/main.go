// An HTTP service without a line of Proxima, for `announcer run` to announce:
//
//	announcer run --service user --endpoint http=127.0.0.1:9001 -- hello 127.0.0.1:9001
package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: hello HOST:PORT")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s\n", os.Args[1])
	})))
	os.Exit(1)
}
