package semel

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep arrays and objects may nest in a command's body.
const maxDepth = 64

// canonicalJSON returns one JSON value in a form that does not depend on
// white space, the order of members, or the way strings are escaped, so that a
// client that encodes its request anew still asks for the same thing. Numbers
// keep their text: 100 and 1e2 differ, because to a handler they may. Members
// of the same name are an error, also if only their case differs: parsers
// differ in which one they see, and encoding/json takes either.
//
// The idea is RFC 8785's; the form is our own, and its version is part of
// every fingerprint.
func canonicalJSON(body []byte) ([]byte, error) {
	c := canonicalizer{in: body, out: make([]byte, 0, len(body))}
	c.space()
	if c.pos == len(c.in) {
		return []byte("{}"), nil // no body is an empty one
	}
	if err := c.value(0); err != nil {
		return nil, err
	}
	c.space()
	if c.pos != len(c.in) {
		return nil, c.fail("more than one JSON value")
	}
	return c.out, nil
}

type canonicalizer struct {
	in   []byte
	pos  int
	out  []byte
	path []string
}

func (c *canonicalizer) fail(format string, args ...any) error {
	place := ""
	if len(c.path) > 0 {
		escape := strings.NewReplacer("~", "~0", "/", "~1")
		for _, p := range c.path {
			place += "/" + escape.Replace(p)
		}
		place = " in " + place // a JSON pointer, RFC 6901
	}
	return fmt.Errorf("%w: malformed JSON at byte %d%s: %s", ErrInvalid, c.pos, place, fmt.Sprintf(format, args...))
}

func (c *canonicalizer) space() {
	for c.pos < len(c.in) {
		switch c.in[c.pos] {
		case ' ', '\t', '\n', '\r':
			c.pos++
		default:
			return
		}
	}
}

func (c *canonicalizer) value(depth int) error {
	if depth > maxDepth {
		return c.fail("nested deeper than %d", maxDepth)
	}
	if c.pos == len(c.in) {
		return c.fail("it ends early")
	}
	switch b := c.in[c.pos]; {
	case b == '{':
		return c.object(depth)
	case b == '[':
		return c.array(depth)
	case b == '"':
		s, err := c.text()
		if err != nil {
			return err
		}
		c.quote(s)
		return nil
	case b == '-' || b >= '0' && b <= '9':
		return c.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(c.in[c.pos:], []byte(word)) {
			c.out = append(c.out, word...)
			c.pos += len(word)
			return nil
		}
	}
	return c.fail("unexpected %q", rune(c.in[c.pos]))
}

func (c *canonicalizer) array(depth int) error {
	c.pos++
	c.out = append(c.out, '[')
	c.space()
	for i := 0; ; i++ {
		if c.pos < len(c.in) && c.in[c.pos] == ']' && i == 0 {
			break
		}
		c.path = append(c.path, strconv.Itoa(i))
		if err := c.value(depth + 1); err != nil {
			return err
		}
		c.path = c.path[:len(c.path)-1]
		c.space()
		if c.pos < len(c.in) && c.in[c.pos] == ',' {
			c.pos++
			c.out = append(c.out, ',')
			c.space()
			continue
		}
		if c.pos < len(c.in) && c.in[c.pos] == ']' {
			break
		}
		return c.fail("want a comma or ] after a value")
	}
	c.pos++
	c.out = append(c.out, ']')
	return nil
}

// member is a member of an object: its name and where its value stands in out.
type member struct {
	name       string
	start, end int
}

func (c *canonicalizer) object(depth int) error {
	c.pos++
	base := len(c.out)
	var members []member
	c.space()
	for i := 0; ; i++ {
		if c.pos < len(c.in) && c.in[c.pos] == '}' && i == 0 {
			break
		}
		m, err := c.member(depth)
		if err != nil {
			return err
		}
		members = append(members, m)
		c.space()
		if c.pos < len(c.in) && c.in[c.pos] == ',' {
			c.pos++
			c.space()
			continue
		}
		if c.pos < len(c.in) && c.in[c.pos] == '}' {
			break
		}
		return c.fail("want a comma or } after a member")
	}
	c.pos++
	return c.order(base, members)
}

func (c *canonicalizer) member(depth int) (member, error) {
	if c.pos == len(c.in) || c.in[c.pos] != '"' {
		return member{}, c.fail("want a member's name in quotes")
	}
	name, err := c.text()
	if err != nil {
		return member{}, err
	}
	c.space()
	if c.pos == len(c.in) || c.in[c.pos] != ':' {
		return member{}, c.fail("want a colon after the name %q", name)
	}
	c.pos++
	c.space()
	c.path = append(c.path, name)
	start := len(c.out)
	if err := c.value(depth + 1); err != nil {
		return member{}, err
	}
	c.path = c.path[:len(c.path)-1]
	return member{name, start, len(c.out)}, nil
}

// order writes the members, whose values stand in out from base on, sorted.
func (c *canonicalizer) order(base int, members []member) error {
	values := slices.Clone(c.out[base:])
	c.out = append(c.out[:base], '{')
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	if err := c.distinct(members); err != nil {
		return err
	}
	for i, m := range members {
		if i > 0 {
			c.out = append(c.out, ',')
		}
		c.quote(m.name)
		c.out = append(c.out, ':')
		c.out = append(c.out, values[m.start-base:m.end-base]...)
	}
	c.out = append(c.out, '}')
	return nil
}

// distinct refuses names that a reader could take for each other.
func (c *canonicalizer) distinct(members []member) error {
	if len(members) < 2 {
		return nil
	}
	folded := make(map[string]string, len(members))
	for _, m := range members {
		key := strings.ToLower(strings.ToUpper(m.name)) // up and down again: K, k and the Kelvin sign are one
		switch other, taken := folded[key]; {
		case taken && other == m.name:
			return c.fail("the member %q stands there twice", m.name)
		case taken:
			return c.fail("the members %q and %q differ only in case", other, m.name)
		}
		folded[key] = m.name
	}
	return nil
}

func (c *canonicalizer) number() error {
	start := c.pos
	if c.in[c.pos] == '-' {
		c.pos++
	}
	whole := c.digits()
	if whole == 0 || whole > 1 && c.in[c.pos-whole] == '0' {
		return c.fail("malformed number")
	}
	if c.pos < len(c.in) && c.in[c.pos] == '.' {
		c.pos++
		if c.digits() == 0 {
			return c.fail("malformed number: want a digit after the point")
		}
	}
	if c.pos < len(c.in) && (c.in[c.pos] == 'e' || c.in[c.pos] == 'E') {
		c.pos++
		if c.pos < len(c.in) && (c.in[c.pos] == '+' || c.in[c.pos] == '-') {
			c.pos++
		}
		if c.digits() == 0 {
			return c.fail("malformed number: want a digit in the exponent")
		}
	}
	c.out = append(c.out, c.in[start:c.pos]...)
	return nil
}

func (c *canonicalizer) digits() int {
	start := c.pos
	for c.pos < len(c.in) && c.in[c.pos] >= '0' && c.in[c.pos] <= '9' {
		c.pos++
	}
	return c.pos - start
}

// text reads a string and returns what it says.
func (c *canonicalizer) text() (string, error) {
	c.pos++
	start := c.pos
	for c.pos < len(c.in) && c.in[c.pos] != '"' && c.in[c.pos] != '\\' && c.in[c.pos] >= ' ' && c.in[c.pos] < utf8.RuneSelf {
		c.pos++
	}
	if c.pos < len(c.in) && c.in[c.pos] == '"' { // the common case: plain ASCII
		c.pos++
		return string(c.in[start : c.pos-1]), nil
	}
	said := slices.Clone(c.in[start:c.pos])
	for c.pos < len(c.in) {
		switch b := c.in[c.pos]; {
		case b == '"':
			c.pos++
			return string(said), nil
		case b < ' ':
			return "", c.fail("control character 0x%02x in a string", b)
		case b == '\\':
			r, err := c.escape()
			if err != nil {
				return "", err
			}
			said = utf8.AppendRune(said, r)
		default:
			r, size := utf8.DecodeRune(c.in[c.pos:])
			if r == utf8.RuneError && size == 1 {
				return "", c.fail("a string is not valid UTF-8")
			}
			said = append(said, c.in[c.pos:c.pos+size]...)
			c.pos += size
		}
	}
	return "", c.fail("a string does not end")
}

func (c *canonicalizer) escape() (rune, error) {
	if c.pos+1 >= len(c.in) {
		return 0, c.fail("a string does not end")
	}
	kind := c.in[c.pos+1]
	if at := strings.IndexByte(`"\/bfnrt`, kind); at >= 0 {
		c.pos += 2
		return rune("\"\\/\b\f\n\r\t"[at]), nil
	}
	if kind != 'u' {
		return 0, c.fail("unknown escape \\%c", kind)
	}
	r, err := c.hex()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if !bytes.HasPrefix(c.in[c.pos:], []byte(`\u`)) {
		return 0, c.fail("half of a surrogate pair")
	}
	low, err := c.hex()
	if err != nil {
		return 0, err
	}
	pair := utf16.DecodeRune(r, low)
	if pair == utf8.RuneError {
		return 0, c.fail("half of a surrogate pair")
	}
	return pair, nil
}

func (c *canonicalizer) hex() (rune, error) {
	if c.pos+6 > len(c.in) {
		return 0, c.fail("a string does not end")
	}
	n, err := strconv.ParseUint(string(c.in[c.pos+2:c.pos+6]), 16, 16)
	if err != nil {
		return 0, c.fail("want four hexadecimal digits after \\u")
	}
	c.pos += 6
	return rune(n), nil
}

func (c *canonicalizer) quote(s string) {
	c.out = append(c.out, '"')
	for i := range len(s) {
		switch b := s[i]; {
		case b == '"' || b == '\\':
			c.out = append(c.out, '\\', b)
		case b < ' ':
			c.out = append(c.out, fmt.Sprintf("\\u%04x", b)...)
		default:
			c.out = append(c.out, b)
		}
	}
	c.out = append(c.out, '"')
}
