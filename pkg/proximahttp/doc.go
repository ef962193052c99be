// Package proximahttp sends HTTP requests to the nearest instance that works.
//
// [Transport] is an [http.RoundTripper] whose URLs name a service instead of a
// machine: http://user/path, or http://user.proxima/path; https:// goes to
// endpoints of protocol https. A [selector.Selector] picks the instance. The
// transport reports to it how the request ended. The time to the head of the
// response balances load, and failures open breakers. The request counts as in
// flight until the head of the response; an error while the body is read still
// counts against the instance.
//
// # What is a failure
//
// A request that got no response, a response cut off before its end, and the statuses 5xx
// but 501 and 505 are failures of the instance. 429, and 503 with a Retry-After, ask for
// fewer requests: the instance gets fewer, and none for the time of the Retry-After, and is
// not faulty. 4xx, 501 and 505 are answers: another instance would answer the same. They
// may come quicker than real work, so they do not count for the speed of an instance.
// [Options.Classify] changes all that; [selector.Outcome] says what follows from each. A
// request that the caller cancels, or whose own deadline passes, counts against the
// instance if it took far longer than requests usually do.
//
// # What is tried again
//
// After a failure, after 429, and when an instance seems to hang, see
// [Options.AttemptTimeout], a request is tried on another instance when that is safe:
// nothing was sent, as after a refused connection; or the method is GET, HEAD,
// OPTIONS, TRACE, PUT or DELETE, or the request has an Idempotency-Key, and
// its body can be sent again. A body can when the request has GetBody, as all
// made by [http.NewRequest] from bytes or strings, or when no more than
// [Options.MaxBody] bytes of it have been read. [selector.Retry] bounds how often and how
// soon, and what share of all requests. After the last attempt its response is returned
// as it is; if there was none, the error is a *[selector.CallError].
package proximahttp
