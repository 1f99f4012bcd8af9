package sqlite

import "errors"

// Result codes of SQLite that are told apart.
const (
	codeError      = 1
	codePrimaryKey = 1555
	codeUnique     = 2067
)

// code returns SQLite's result code, or 0 if err is not SQLite's.
func code(err error) int {
	var coded interface{ Code() int }
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return 0
}

// taken reports whether a row with the same key is there.
func taken(err error) bool {
	c := code(err)
	return c == codeUnique || c == codePrimaryKey
}
