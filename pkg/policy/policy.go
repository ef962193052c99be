package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// MaxSize is the largest document, in bytes.
const MaxSize = 64 << 10

// Default is the name under which the policy for all services stands. It cannot be the
// name of a service.
const Default = "_default"

// Policy is the document. A field that is not set says nothing: the policy for all
// services decides, else the options of the caller, else the default.
type Policy struct {
	Strategy string `json:"strategy,omitempty" enum:"p2c,nearest,round_robin,weighted_round_robin,random,least_request,consistent_hash,load_aware" doc:"How the instances of a near set are balanced."`
	HashKey  *Key   `json:"hash_key,omitempty" doc:"Where a request has the key that consistent_hash hashes."`

	Where    string   `json:"where,omitempty" is:"subset" doc:"The instances that calls go to, as an expression: version>=1.4,team in (a,b),!canary."`
	Fallback Fallback `json:"fallback,omitempty" enum:"none,any" doc:"What happens when no instance of where is usable: none fails the call, any takes one of the others. Default: none."`

	Near   *Near     `json:"near,omitempty" doc:"Which instances of a circle are about as near as its nearest."`
	Leave  *Leave    `json:"leave,omitempty" doc:"When calls leave a circle for a farther one."`
	RampUp *Duration `json:"ramp_up,omitempty" min:"0s" max:"24h" doc:"How long it takes until a new instance has its whole share. 0s: at once."`
	Panic  *float64  `json:"panic,omitempty" min:"0" max:"1" doc:"If less than this share of the instances is usable, the others fill in. Default: 0.5."`
	Probe  string    `json:"probe,omitempty" enum:"connect,http,http2,grpc,nats,none" doc:"How distances to the instances are measured."`

	Timeout        Duration `json:"timeout,omitzero" min:"1ms" max:"24h" doc:"How long a call may take, with all its attempts."`
	AttemptTimeout Duration `json:"attempt_timeout,omitzero" min:"1ms" max:"24h" doc:"How long one attempt may take while another instance may get the call."`
	Retry          *Retry   `json:"retry,omitempty" doc:"When a call is tried again."`

	Breaker  *Breaker  `json:"breaker,omitempty" doc:"When an instance is taken out because its calls fail."`
	Bulkhead *Bulkhead `json:"bulkhead,omitempty" doc:"How many calls may be in flight."`

	Overrides []Override `json:"overrides,omitzero" most:"64" doc:"Headers of a request that decide where it goes. The first that applies holds, before splits and where."`
	Splits    []Split    `json:"splits,omitzero" most:"16" doc:"Shares of the calls that go to some of the instances. The rest goes to those of where that are in no split."`
	Mirror    *Mirror    `json:"mirror,omitempty" doc:"A share of the requests that other instances get too, whose answers are thrown away."`

	OverCode *bool `json:"over_code,omitempty" doc:"Whether this document holds over options that a program sets. Default: the program's options hold."`
}

// Fallback is what happens when no instance of a subset is usable.
type Fallback string

const (
	// None fails the call.
	None Fallback = "none"
	// Any takes one of the other instances.
	Any Fallback = "any"
)

// Key is where a request has a key: in a header, or in a cookie.
type Key struct {
	Header string `json:"header,omitempty" is:"token" doc:"The name of the header."`
	Cookie string `json:"cookie,omitempty" is:"token" doc:"The name of the cookie."`
}

// Near bounds the near set of a circle: the instances no farther than its nearest plus
// slack, or than factor times that, whichever is more.
type Near struct {
	Slack  *Duration `json:"slack,omitempty" min:"0s" max:"1m" doc:"How much farther than the nearest."`
	Factor float64   `json:"factor,omitempty" min:"1" max:"1000" doc:"How many times as far as the nearest."`
}

// Leave is when calls leave a circle for a farther one.
type Leave struct {
	Off     *bool     `json:"off,omitempty" doc:"Whether calls stay however loaded the circle is, while it has usable instances."`
	Price   *Duration `json:"price,omitempty" min:"0s" max:"1h" doc:"How much sooner a call must end for each circle that it goes farther."`
	Within  string    `json:"within,omitempty" is:"name" doc:"A level that calls never leave, such as region."`
	Regions []string  `json:"regions,omitzero" most:"30" is:"name" doc:"The regions that are tried first outside of the own one, in this order."`
}

// Retry is when a call is tried again, at another instance.
type Retry struct {
	Attempts int       `json:"attempts,omitempty" min:"1" max:"10" doc:"How many instances are tried."`
	Budget   *float64  `json:"budget,omitempty" min:"0" max:"1" doc:"The share of the calls that may be retries. 0: none are."`
	Backoff  *Duration `json:"backoff,omitempty" min:"0s" max:"1h" doc:"The longest wait before the first retry, doubled for each further one."`
	On       *[]string `json:"on,omitempty" most:"2" enum:"fault,backpressure" doc:"The outcomes after which a call is tried again. A call that was not sent always is. Default: both."`
	Hedge    *bool     `json:"hedge,omitempty" doc:"Whether a second instance gets the call too when the first takes longer than 95 % of the calls."`
}

// Breaker is when an instance is taken out, and when it is tried again.
type Breaker struct {
	Failures     int      `json:"failures,omitempty" min:"1" max:"1000000" doc:"Failures in a row that open the breaker."`
	FailureRatio *float64 `json:"failure_ratio,omitempty" min:"0" max:"1" doc:"The share of failed calls in a window that opens it. 0: none does."`
	MinCalls     int      `json:"min_calls,omitempty" min:"1" max:"1000000" doc:"The calls in a window that failure_ratio needs."`
	Window       Duration `json:"window,omitzero" min:"100ms" max:"1h" doc:"The time that failure_ratio looks back."`
	OpenFor      Duration `json:"open_for,omitzero" min:"10ms" max:"1h" doc:"How long the breaker is open before a trial, doubled after each trial that fails."`
	MaxOpenFor   Duration `json:"max_open_for,omitzero" min:"10ms" max:"24h" doc:"What open_for grows to."`
}

// Bulkhead bounds the calls of one caller that are in flight.
type Bulkhead struct {
	PerInstance  int       `json:"per_instance,omitempty" min:"1" max:"1000000" doc:"Calls in flight to one instance. A full instance is not picked."`
	Adaptive     *bool     `json:"adaptive,omitempty" doc:"Whether the limit of an instance follows how much longer its calls take than without load, up to per_instance."`
	PerService   int       `json:"per_service,omitempty" min:"1" max:"1000000" doc:"Calls in flight to all instances together."`
	Queue        int       `json:"queue,omitempty" min:"1" max:"100000" doc:"Calls that wait when all instances are full. Default: none wait."`
	QueueTimeout *Duration `json:"queue_timeout,omitempty" min:"1ms" max:"1m" doc:"How long a call waits at most. Default: 100ms."`
}

// Override sends requests with a header to some of the instances.
type Override struct {
	Header   string   `json:"header" is:"token" must:"" doc:"The name of the header."`
	Value    string   `json:"value,omitempty" doc:"The value that it must have. Default: any."`
	Where    string   `json:"where" is:"subset" must:"" doc:"The instances that such requests go to."`
	Fallback Fallback `json:"fallback,omitempty" enum:"none,any" doc:"As fallback of the policy. Default: none."`
}

// Split sends a share of the calls to some of the instances.
type Split struct {
	Where    string   `json:"where" is:"subset" must:"" doc:"The instances that the share goes to, the nearest of them first."`
	Share    float64  `json:"share" min:"0" max:"1" must:"" doc:"The share of the calls, 0 to 1. All shares together are at most 1."`
	Key      *Key     `json:"key,omitempty" doc:"Where a request has the key that decides, so that a user stays. Requests without it go by chance."`
	Fallback Fallback `json:"fallback,omitempty" enum:"none,any" doc:"As fallback of the policy. Default: any."`
}

// Mirror sends copies of a share of the requests to some of the instances.
type Mirror struct {
	Where string  `json:"where" is:"subset" must:"" doc:"The instances that get copies."`
	Share float64 `json:"share" min:"0" max:"1" must:"" doc:"The share of the requests, 0 to 1."`
}

// Duration is a [time.Duration] whose JSON is text such as "1.5s".
type Duration time.Duration

// MarshalText writes the duration as [time.Duration.String] does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what [time.ParseDuration] reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// String is the duration without units that are 0: 1m, not 1m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// Encode validates a policy and writes it as JSON, indented.
func Encode(p *Policy) ([]byte, error) {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if _, err := Decode(data); err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}
