// Package breaker keeps calls away from instances that fail.
//
// There is one [Breaker] per incarnation of an instance. Failures in a row open it, and so
// does a part of the calls of the last seconds that failed or were too slow. A refused
// connection opens it at once, and an instance can ask for it. After a while the breaker
// allows a few trials; when they succeed it closes, and when one fails it stays open for
// twice as long. The caller asks [Breaker.Allow] before a call, and reports with
// [Pass.Done] how it ended. What an open breaker means is the caller's decision: the
// selector uses such an instance after all others.
//
// github.com/sony/gobreaker/v2 counts calls and trials, and makes every change of state.
// Calls of a healthy instance do not reach it: the state, its generation and whether a
// failure still counts are one atomic word, so Allow and Done(nil) are a load each,
// without a lock or an allocation. A gobreaker is made at the first failure. It gets every
// failure, the successes in the window after it, and every trial. This package adds:
//
//   - Failures in a row count however old they are; those of gobreaker leave its window.
//   - The time that a breaker is open is random and grows. It ends by a timer, not at the
//     next call, so that [Breaker.State] is one load and [Settings.OnChange] is called in
//     time.
//   - A trial that is not reported gives its slot back after [Settings.TrialTimeout].
//   - OnChange is called without a lock and may use the breaker.
package breaker
