// Package breaker keeps calls away from instances that fail.
//
// There is one [Breaker] per incarnation of an instance. Failures in a row
// open it, a refused connection opens it at once; after a while it lets a few
// trials through, whose success closes it. [Breaker.Allow] asks before a call,
// [Pass.Done] reports how it ended. What an open breaker means is the caller's
// decision: the selector uses such an instance after all others.
//
// The rules are those of github.com/sony/gobreaker/v2, which decides every
// change of state. But a healthy instance's calls never get there: the state,
// its generation and whether there was a failure since the last success are
// one atomic word, so that Allow and Done(nil) are a load each, without a lock
// or an allocation. gobreaker is made at the first failure and sees every
// failure, the success after it, and every trial. Three things are added:
//
//   - An open breaker turns half-open by a timer, not at the next question, so
//     that [Breaker.State] is one load and [Settings.OnChange] tells in time.
//   - A trial that nobody reports gives its slot back after a while.
//   - OnChange is called outside every lock and may use the breaker.
package breaker
