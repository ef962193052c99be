// Package proximahttp sends HTTP requests to the nearest instance that works.
//
// [Transport] is an [http.RoundTripper] whose URLs name a service instead of a
// machine: http://user/path, or http://user.proxima/path; https:// goes to
// endpoints of protocol https. A [selector.Selector] picks the instance, and
// what becomes of the request is reported back to it: the time to the head of
// the response balances load, failures open breakers, and the request counts
// as in flight until the response's body has ended.
//
// # What is a failure
//
// A request that got no response, a response cut off before its end, and the
// statuses 502, 503 and 504 are failures of the instance. Every other status
// is an answer, also 500 and 429: another instance would answer the same. But
// it may come quicker than real work, so only responses below 500 other than
// 429 say how fast an instance is. What the caller cancels is nobody's failure.
//
// # What is tried again
//
// After a failure a request is tried on another instance when that is safe:
// nothing was sent, as after a refused connection; or the method is GET, HEAD,
// OPTIONS, TRACE, PUT or DELETE, or the request has an Idempotency-Key, and
// its body can be sent again. A body can when the request has GetBody, as all
// made by [http.NewRequest] from bytes or strings, or when no more than
// [Options.MaxBody] bytes of it have been read. How often, how soon, and what
// share of all requests at most, is for the selector's options to say. When no
// try is left the last response is returned as it is.
package proximahttp
