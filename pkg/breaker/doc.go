// Package breaker keeps calls away from instances that fail.
//
// There is one [Breaker] per incarnation of an instance. Failures in a row open it, and
// a refused connection opens it at once. After a while it allows a few trials; when they
// succeed it closes. The caller asks [Breaker.Allow] before a call, and reports with
// [Pass.Done] how it ended. What an open breaker means is the caller's decision: the
// selector uses such an instance after all others.
//
// github.com/sony/gobreaker/v2 decides every change of state. Calls of a healthy instance
// do not reach it: the state, its generation and whether there was a failure since the
// last success are one atomic word, so Allow and Done(nil) are a load each, without a
// lock or an allocation. A gobreaker is made at the first failure. It gets every failure,
// the success after it, and every trial. This package adds:
//
//   - An open breaker turns half-open by a timer, not at the next call, so that
//     [Breaker.State] is one load and [Settings.OnChange] is called in time.
//   - A trial that is not reported gives its slot back after [Settings.TrialTimeout].
//   - OnChange is called without a lock and may use the breaker.
package breaker
