package subset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"
)

// Error is why an expression cannot be read.
type Error struct {
	Text string // the expression
	At   int    // the byte of it where reading ended
	Want string // what should stand there, or what is wrong
}

func (e *Error) Error() string {
	return fmt.Sprintf("subset: %.100q at %.20q: %s", e.Text, e.Text[min(e.At, len(e.Text)):], e.Want)
}

// Parse compiles an expression, see the package. The error is an *[Error].
func Parse(text string) (*Subset, error) {
	p := &parser{text: text}
	if len(text) > MaxLength {
		return nil, p.want(fmt.Sprintf("an expression of %d bytes, want at most %d", len(text), MaxLength))
	}
	s := &Subset{}
	for p.space(); p.at < len(text); {
		if len(s.requirements) == MaxRequirements {
			return nil, p.want(fmt.Sprintf("want at most %d requirements", MaxRequirements))
		}
		r, err := p.requirement()
		if err != nil {
			return nil, err
		}
		s.requirements = append(s.requirements, r)
		if p.at == len(text) {
			break
		}
		if !p.accept(",") {
			return nil, p.want("want a comma before the next requirement")
		}
		if p.at == len(text) {
			return nil, p.want("want a requirement after the comma")
		}
	}
	slices.SortFunc(s.requirements, func(a, b requirement) int { return strings.Compare(a.text(), b.text()) })
	s.requirements = slices.CompactFunc(s.requirements, func(a, b requirement) bool { return a.text() == b.text() })
	texts := make([]string, len(s.requirements))
	for i := range s.requirements {
		texts[i] = s.requirements[i].text()
	}
	s.text = strings.Join(texts, ",")
	return s, nil
}

// parser reads an expression from left to right.
type parser struct {
	text string
	at   int
}

func (p *parser) want(what string) error { return &Error{p.text, p.at, what} }

func (p *parser) space() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

// accept reads a symbol, with the spaces after it, if it comes next.
func (p *parser) accept(symbol string) bool {
	if !strings.HasPrefix(p.text[p.at:], symbol) {
		return false
	}
	p.at += len(symbol)
	p.space()
	return true
}

// noWord are the characters that end a word.
const noWord = " \t\r\n,()!=<>\"'`"

// word reads a key or value, with the spaces after it.
func (p *parser) word(what string) (string, error) {
	rest := p.text[p.at:]
	end := strings.IndexFunc(rest, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(noWord, r) })
	if end < 0 {
		end = len(rest)
	}
	if end == 0 {
		return "", p.want("want " + what)
	}
	p.at += end
	p.space()
	return rest[:end], nil
}

func (p *parser) requirement() (requirement, error) {
	not := p.accept("!")
	key, err := p.word("a key, such as version, zone or a key of the metadata")
	if err != nil {
		return requirement{}, err
	}
	if key == metadata {
		return requirement{}, p.want("want a key after metadata.")
	}
	if plain := strings.TrimPrefix(key, metadata); fields[plain] == nil && !strings.HasPrefix(plain, metadata) {
		key = plain
	}
	r := requirement{key: key, field: fields[key], op: exists}
	if not {
		r.op = absent
		return r, nil
	}
	switch {
	case p.accept("!="):
		r.op = notIn
		return r, p.value(&r)
	case p.accept("=="), p.accept("="):
		r.op = in
		return r, p.value(&r)
	}
	for _, symbol := range [...]string{"<=", ">=", "<", ">"} {
		if p.accept(symbol) {
			r.op = comparisons[symbol]
			return r, p.bound(&r)
		}
	}
	if p.at == len(p.text) || p.text[p.at] == ',' {
		return r, nil
	}
	before := p.at
	switch word, _ := p.word(""); word {
	case "in":
		r.op = in
	case "notin":
		r.op = notIn
	default:
		p.at = before
		return r, p.want("want =, !=, <, <=, >, >=, in, notin or a comma")
	}
	return r, p.list(&r)
}

// value reads the one value of a requirement.
func (p *parser) value(r *requirement) error {
	v, err := p.word("a value")
	r.values = []string{v}
	return err
}

// bound reads what values are compared with.
func (p *parser) bound(r *requirement) error {
	before := p.at
	v, err := p.word("a value to compare with")
	if err != nil {
		return err
	}
	if r.field == nil {
		if r.number, err = strconv.ParseInt(v, 10, 64); err != nil {
			p.at = before
			return p.want("want a whole number to compare metadata with")
		}
		return nil
	}
	p.at, before = before, p.at
	if r.key != "version" {
		return p.want("want = or !=: only versions, and metadata that are whole numbers, can be compared")
	}
	v = "v" + strings.TrimPrefix(v, "v")
	if !semver.IsValid(v) {
		return p.want("want a version, such as 2, 1.4 or 1.4.0-rc.1")
	}
	p.at = before
	r.values = []string{v}
	return nil
}

// list reads values in parentheses.
func (p *parser) list(r *requirement) error {
	if !p.accept("(") {
		return p.want("want values in parentheses, such as (a,b)")
	}
	for {
		if len(r.values) == MaxValues {
			return p.want(fmt.Sprintf("want at most %d values", MaxValues))
		}
		v, err := p.word("a value")
		if err != nil {
			return err
		}
		r.values = append(r.values, v)
		if p.accept(")") {
			break
		}
		if !p.accept(",") {
			return p.want("want a comma or ) after a value")
		}
	}
	slices.Sort(r.values)
	r.values = slices.Compact(r.values)
	return nil
}
