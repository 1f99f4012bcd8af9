package sqlite

import (
	"fmt"
	"strings"
)

// verbs is what a text of SQL does, as far as its statements' first keywords
// tell.
type verbs struct {
	writes  bool   // some statement may change rows
	schema  bool   // some statement may change what total_changes does not count
	refused string // the keyword that users may not run, or ""
}

// forbidden would end the transaction that others share, or cannot run in one.
var forbidden = map[string]bool{
	"BEGIN": true, "COMMIT": true, "END": true, "ROLLBACK": true, "SAVEPOINT": true, "RELEASE": true,
	"ATTACH": true, "DETACH": true, "VACUUM": true,
}

var uncounted = map[string]bool{
	"CREATE": true, "ALTER": true, "DROP": true, "PRAGMA": true, "REINDEX": true, "ANALYZE": true,
}

var reading = map[string]bool{"SELECT": true, "VALUES": true, "EXPLAIN": true}

// scan finds the first keyword of each statement of a text, with SQLite's
// rules for what lies between them: a wrong guess here would let a handler
// commit half of somebody else's work.
func scan(sql string) verbs {
	var v verbs
	s := scanner{sql: sql}
	for {
		word, ok := s.statement()
		if !ok {
			return v
		}
		switch {
		case forbidden[word]:
			v.refused = word
			return v
		case uncounted[word]:
			v.writes, v.schema = true, true
		case !reading[word]:
			v.writes = true
		}
	}
}

// refusal explains why a text may not be run, or is nil.
func (v verbs) refusal() error {
	if v.refused == "" {
		return nil
	}
	return fmt.Errorf("sqlite: %s is not possible here: the transaction is shared and ended by the engine", v.refused)
}

type scanner struct {
	sql string
	at  int
}

// statement returns the first keyword of the next statement, in capitals, and
// moves behind its end.
func (s *scanner) statement() (first string, ok bool) {
	word, ok := s.token()
	for ok && word == ";" { // empty statements
		word, ok = s.token()
	}
	if !ok {
		return "", false
	}
	first = word
	second, ok := s.token()
	third := second
	if ok && first == "CREATE" && (second == "TEMP" || second == "TEMPORARY") {
		third, ok = s.token()
	}
	if ok && first == "CREATE" && third == "TRIGGER" {
		s.trigger()
		return first, true
	}
	for word = third; ok && word != ";"; {
		word, ok = s.token()
	}
	return first, true
}

// trigger moves behind a trigger's body, whose statements end with semicolons
// of their own: it ends with "; END ;", as sqlite3_complete has it.
func (s *scanner) trigger() {
	var before, last string
	for {
		word, ok := s.token()
		if !ok || word == ";" && last == "END" && before == ";" {
			return
		}
		before, last = last, word
	}
}

// token returns the next word in capitals, ";", or "?" for anything else.
func (s *scanner) token() (string, bool) {
	s.space()
	if s.at >= len(s.sql) {
		return "", false
	}
	start := s.at
	switch c := s.sql[s.at]; {
	case c == ';':
		s.at++
		return ";", true
	case c == '\'' || c == '"' || c == '`':
		s.quoted(c)
	case c == '[':
		s.skipPast("]")
	case wordByte(c):
		for s.at < len(s.sql) && wordByte(s.sql[s.at]) {
			s.at++
		}
		if s.at-start <= len("TEMPORARY") { // no keyword asked for is longer
			return strings.ToUpper(s.sql[start:s.at]), true
		}
	default:
		s.at++
	}
	return "?", true
}

// space skips white space, byte order marks and comments.
func (s *scanner) space() {
	for s.at < len(s.sql) {
		rest := s.sql[s.at:]
		switch {
		case strings.IndexByte(" \t\n\f\r", rest[0]) >= 0:
			s.at++
		case strings.HasPrefix(rest, "\ufeff"):
			s.at += len("\ufeff")
		case strings.HasPrefix(rest, "--"):
			s.skipPast("\n")
		case strings.HasPrefix(rest, "/*") && len(rest) > 2:
			s.at += 2
			s.skipPast("*/")
		default:
			return
		}
	}
}

func (s *scanner) skipPast(end string) {
	i := strings.Index(s.sql[s.at:], end)
	if i < 0 {
		s.at = len(s.sql)
		return
	}
	s.at += i + len(end)
}

// quoted skips a string or identifier, in which a doubled quote stands for one.
func (s *scanner) quoted(quote byte) {
	for s.at++; s.at < len(s.sql); s.at++ {
		if s.sql[s.at] != quote {
			continue
		}
		if s.at+1 < len(s.sql) && s.sql[s.at+1] == quote {
			s.at++
			continue
		}
		s.at++
		return
	}
}

// wordByte reports whether SQLite takes c as part of an identifier. A mark in
// the middle of a word belongs to it.
func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c >= 0x80
}
