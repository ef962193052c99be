// Package telemetry turns what Proxima knows into OpenTelemetry metrics and traces.
//
// [New] makes the instruments. The methods of [Metrics] are hooks for the other packages;
// the package example shows all of them in one place. Picks and the ends of calls are read
// from the selector when metrics are collected, so a call costs nothing more.
//
// The metrics, by the hook that feeds them (Prometheus adds _total to counters and _seconds
// to the duration; labels in parentheses):
//
//	Selector    proxima_picks, proxima_instances, proxima_usable_instances,
//	            proxima_suspect_instances, proxima_dead_instances,
//	            proxima_evacuated_instances, proxima_in_flight, proxima_circle_share,
//	            proxima_demoted_circles (service, circle);
//	            proxima_calls (service, circle, outcome);
//	            proxima_broken_answers, proxima_timed_calls,
//	            proxima_timed_call_seconds, proxima_call_duration (service, circle);
//	            proxima_retries, proxima_refused_retries, proxima_slow_attempts,
//	            proxima_hedges, proxima_forgotten_calls (service);
//	            proxima_rule_calls, proxima_rule_fallbacks (service, rule, where);
//	            proxima_mirrored_calls, proxima_dropped_mirrors (service);
//	            proxima_stale_views, proxima_stale_view_seconds (service);
//	            proxima_probes, proxima_rejected_samples, proxima_invalid_beats
//	OnBreaker   proxima_breaker_changes (service, to)
//	Registry    proxima_registry_invalid_messages, proxima_registry_forged_messages,
//	            proxima_registry_gaps, proxima_registry_snapshots,
//	            proxima_registry_unreadable, proxima_registry_unwritable,
//	            proxima_registry_missing_replicas
//	OnState     proxima_announcer_changes (service, phase),
//	            proxima_announcer_lost_records (service),
//	            proxima_announcer_registered, proxima_announcer_failing (service, instance)
//	OnSource    proxima_source_instances, proxima_source_held_instances,
//	            proxima_source_refused, proxima_source_age_seconds (source)
//	Request     proxima_router_requests (door, service, code),
//	            proxima_router_request_duration (door, service)
//	Timeout     proxima_router_timeouts (service, limit)
//
// [Transport] and [Handler] carry W3C trace context through HTTP, [Inject] and [Extract]
// through the headers of NATS messages, and [Start] makes a span around a call that is
// passed on. They use the tracer provider of
// [go.opentelemetry.io/otel.SetTracerProvider]. Without one they make no spans and only
// pass on the trace context of the caller.
//
// The package uses the OpenTelemetry API only: a program that installs no SDK compiles
// none.
package telemetry
