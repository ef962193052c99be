// Package proximahttp sends HTTP requests to the nearest instance that works.
//
// [Transport] is an [http.RoundTripper] whose URLs name a service instead of a
// machine: http://user/path, or http://user.proxima/path; https:// goes to
// endpoints of protocol https. A [selector.Selector] picks the instance. The
// transport reports to it how the request ended: the time to the head of the
// response balances load, failures open breakers, and the request counts as in
// flight until the body of the response has ended.
//
// # What is a failure
//
// A request that got no response, a response cut off before its end, and the
// statuses 502, 503 and 504 are failures of the instance. Every other status
// is an answer, also 500 and 429: another instance would answer the same. An
// error may come quicker than real work, so only responses below 500 other than
// 429 count for the speed of an instance. A request that the caller cancels is
// not counted. A request whose own deadline passes before the head of the response is a
// failure: set [Options.AttemptTimeout], so that a hung instance does not take all the
// time that a request has.
//
// # What is tried again
//
// After a failure a request is tried on another instance when that is safe:
// nothing was sent, as after a refused connection; or the method is GET, HEAD,
// OPTIONS, TRACE, PUT or DELETE, or the request has an Idempotency-Key, and
// its body can be sent again. A body can when the request has GetBody, as all
// made by [http.NewRequest] from bytes or strings, or when no more than
// [Options.MaxBody] bytes of it have been read. [selector.Retry] bounds how often and how
// soon, and what share of all requests. After the last attempt its response is returned
// as it is; if there was none, the error is a *[selector.CallError].
package proximahttp
