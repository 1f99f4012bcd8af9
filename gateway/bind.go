package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/semel-dev/semel/internal/wire"
)

// A member is one that the path adds to a command's JSON.
type member struct{ name, value string }

var wildcard = regexp.MustCompile(`\{([^{}]*?)(?:\.\.\.)?\}`)

// Bind adds a route for one command, in the pattern language of
// [http.ServeMux]: "PUT /accounts/{account}/withdrawals/{key}". The wildcard
// {key} is the idempotency key; without it the request needs the header. Every
// other wildcard becomes a string member of the command's JSON, which the body
// must not name as well.
//
// Handlers are registered first. Bind panics if the command is unknown, if the
// pattern names no method or one that must be safe, and if it conflicts with
// another: all are mistakes in the program.
func (g *Gateway) Bind(pattern, command string) {
	if !slices.Contains(g.engine.Commands(), command) {
		panic(fmt.Sprintf("gateway: binding %q: there is no command %q", pattern, command))
	}
	method, path, ok := strings.Cut(pattern, " ")
	if !ok || method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions {
		panic(fmt.Sprintf("gateway: binding %q: a route needs a method that may change something", pattern))
	}
	if strings.HasSuffix(path, "/") || strings.HasSuffix(path, "{$}") {
		panic(fmt.Sprintf("gateway: binding %q: a route names one resource and does not end in a slash", pattern))
	}
	var names []string
	keyed := false
	for _, match := range wildcard.FindAllStringSubmatch(path, -1) {
		if match[1] == "key" {
			keyed = true
			continue
		}
		names = append(names, match[1])
	}
	g.handle(pattern, func(w http.ResponseWriter, r *http.Request, who Identity) error {
		s := sending{name: command, keyed: keyed, members: make([]member, len(names))}
		if keyed {
			s.key = r.PathValue("key")
		}
		for i, name := range names {
			s.members[i] = member{name, r.PathValue(name)}
		}
		return g.send(w, r, who, s)
	})
}

// splice writes members into a JSON object without touching its other bytes,
// so that the engine's words about places hold for what the client sent.
//
// It does not check the object. What was not well-formed before is not
// afterwards, since balanced text cannot close what is open; the engine finds
// that out when it parses.
func splice(body []byte, members []member) ([]byte, error) {
	if len(members) == 0 {
		return body, nil
	}
	const space = " \t\r\n"
	object := bytes.Trim(body, space)
	if len(object) < 2 || object[0] != '{' || object[len(object)-1] != '}' {
		return nil, refusal(malformedBody, "the body is not a JSON object; the path adds the member %q to it", members[0].name)
	}
	if err := checkApart(body, members); err != nil {
		return nil, err
	}
	whole := bytes.NewBuffer(make([]byte, 0, len(body)+64*len(members)))
	head := bytes.TrimRight(body, space)
	whole.Write(head[:len(head)-1])
	empty := len(bytes.Trim(object[1:len(object)-1], space)) == 0
	for _, m := range members {
		if !utf8.ValidString(m.value) || strings.ContainsFunc(m.value, unicode.IsControl) {
			return nil, refusal(invalidCommand, "the path's %s is %s; it takes UTF-8 without control characters", m.name, wire.Shorten(m.value))
		}
		name, _ := json.Marshal(m.name)
		value, _ := json.Marshal(m.value) // strings always encode
		if !empty {
			whole.WriteByte(',')
		}
		empty = false
		whole.Write(name)
		whole.WriteByte(':')
		whole.Write(value)
	}
	whole.WriteByte('}')
	return whole.Bytes(), nil
}

// checkApart refuses a body that names a member of the path as well, in
// whatever case or spelling: encoding/json takes "ACCOUNT" for "account", and
// what is authorised by the path must be what runs. It reads only as much JSON
// as that needs: in the outermost object, the strings before a colon.
func checkApart(body []byte, members []member) error {
	depth := 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			start := i
			for i++; i < len(body) && body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
			if depth != 1 || i >= len(body) || !colonFollows(body[i+1:]) {
				continue
			}
			for _, m := range members {
				if sameName(body[start:i+1], m.name) {
					return refusal(invalidCommand, "the member %s at byte %d is given by the path as %q and must not be in the body", wire.Shorten(string(body[start+1:i])), start, m.name)
				}
			}
		}
	}
	return nil
}

func colonFollows(rest []byte) bool {
	rest = bytes.TrimLeft(rest, " \t\r\n")
	return len(rest) > 0 && rest[0] == ':'
}

func sameName(quoted []byte, name string) bool {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return strings.EqualFold(string(inner), name)
	}
	var unescaped string
	return json.Unmarshal(quoted, &unescaped) == nil && strings.EqualFold(unescaped, name)
}
