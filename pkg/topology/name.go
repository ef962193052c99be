package topology

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Unknown is the text of an unknown field where it cannot be empty: in keys, subjects,
// headers and tables. In a [Location] it is empty.
const Unknown = "_"

// NameRule is the rule of [ValidName], for errors.
const NameRule = "want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'"

const (
	placeRule   = "want at most 255 bytes of printable text without '/'"
	unknownRule = "want it empty when it is unknown"
)

// ValidName reports whether s can be a region, a zone or an id, one token of a
// subject.
func ValidName(s string) bool {
	if len(s) < 1 || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// ValidText reports whether s is at most 255 bytes of printable text. The empty text
// is valid.
func ValidText(s string) bool {
	if len(s) > 255 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
		}
	}
	return true
}

// FieldError is the error of a field of a location that breaks a rule.
type FieldError struct {
	Field Level // [Region], [Zone], [Rack] or [Host]
	Value string
	Rule  string // what the field must be
}

func (e *FieldError) Error() string {
	v := e.Value
	if len(v) > 80 {
		v = v[:80] + "…"
	}
	return fmt.Sprintf("%s %q: %s", e.Field, v, e.Rule)
}

// check returns an error for a value that the field cannot have. Empty is valid.
func (l Level) check(value string) error {
	rule := ""
	switch {
	case value == "":
	case value == Unknown:
		rule = unknownRule
	case l == Region || l == Zone:
		if !ValidName(value) {
			rule = NameRule
		}
	case !ValidText(value) || strings.Contains(value, "/"):
		rule = placeRule
	}
	if rule != "" {
		return &FieldError{l, value, rule}
	}
	return nil
}
