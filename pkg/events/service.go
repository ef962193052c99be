package events

import "strings"

// Names of services. Undotted names are DNS labels, lower-case as hosts are. Dotted ones
// keep their case: those of gRPC have upper-case letters.
const (
	maxService = 253 // bytes, as a host
	maxLabel   = 63
	// MaxLabels is how many labels a name has at most: what regions read of each other
	// needs a filter for each number of labels.
	MaxLabels = 8

	// mark follows each label but the last of a dotted name, and stands before the last.
	mark = '='

	serviceRule = "want a DNS label: 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"
	dottedRule  = "want up to 8 labels joined by dots, at most 253 bytes: each 1 to 63 of A-Z, a-z, 0-9, '_' and '-', " +
		"with a letter or digit at both ends, the last one not a number"
)

// ValidateService checks a service name. A name without a dot is a DNS label (RFC 1123),
// lower case. One with dots, such as payments.user or grpc.health.v1.Health, has up to
// [MaxLabels] labels, which may have upper-case letters and underscores.
func ValidateService(s string) error {
	if strings.Contains(s, ".") {
		if !validDotted(s) {
			return &FieldError{"service", s, dottedRule}
		}
		return nil
	}
	ok := len(s) >= 1 && len(s) <= maxLabel && s[0] != '-' && s[len(s)-1] != '-'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-'
	}
	if !ok {
		return &FieldError{"service", s, serviceRule}
	}
	return nil
}

func validDotted(s string) bool {
	if len(s) > maxService {
		return false
	}
	last := ""
	for labels := 1; ; labels++ {
		label, rest, more := strings.Cut(s, ".")
		if labels > MaxLabels || !validLabel(label) {
			return false
		}
		if last = label; !more {
			break
		}
		s = rest
	}
	return strings.Trim(last, "0123456789") != "" // hosts that end in a number are addresses
}

func validLabel(s string) bool {
	if len(s) < 1 || len(s) > maxLabel || !alphanumeric(s[0]) || !alphanumeric(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// ServiceTokens is how a service stands in keys and subjects: a name without a dot as it
// is, and one with dots as a token for each label, payments=.=user for payments.user. So
// inst.payments.> is the service payments, inst.payments=.> all that is in the namespace
// payments, and inst.payments=.=user.> the service payments.user.
func ServiceTokens(service string) string {
	last := strings.LastIndexByte(service, '.')
	if last < 0 {
		return service
	}
	var b strings.Builder
	b.Grow(len(service) + MaxLabels)
	for i := range len(service) {
		if service[i] == '.' {
			b.WriteByte(mark)
		}
		b.WriteByte(service[i])
		if i == last {
			b.WriteByte(mark)
		}
	}
	return b.String()
}

// CutService cuts the tokens of a service from those that follow, and returns its name.
// The name is not validated. It returns false for tokens that [ServiceTokens] does not make.
func CutService(tokens string) (service, rest string, found bool) {
	at := strings.Index(tokens, ".=")
	if at < 0 {
		return strings.Cut(tokens, ".")
	}
	end := strings.IndexByte(tokens[at+1:], '.')
	if end < 0 {
		return "", "", false
	}
	end += at + 1
	service = strings.ReplaceAll(tokens[:end], string(mark), "")
	if ServiceTokens(service) != tokens[:end] {
		return "", "", false
	}
	return service, tokens[end+1:], true
}
