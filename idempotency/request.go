package idempotency

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A description is what makes two requests the same: it is the body of the
// command, so that the engine's fingerprint is taken of it. Every member is
// ASCII or JSON, and no two different requests have the same one.
type description struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	// Query is sorted by name. One that cannot be parsed is in Unparsed, as
	// it came.
	Query    string `json:"query,omitempty"`
	Unparsed string `json:"unparsed,omitempty"`
	Type     string `json:"type,omitempty"`
	Encoding string `json:"encoding,omitempty"`
	// Of JSON the engine takes the canonical form: a client may encode its
	// request anew. Of anything else only the hash is kept.
	JSON   json.RawMessage `json:"json,omitempty"`
	SHA256 string          `json:"sha256,omitempty"`
}

func describe(r *http.Request, body []byte) description {
	d := description{
		Method:   r.Method,
		Path:     r.URL.EscapedPath(),
		Encoding: ascii(strings.Join(r.Header["Content-Encoding"], ",")),
	}
	if values, err := url.ParseQuery(r.URL.RawQuery); err == nil {
		d.Query = values.Encode()
	} else {
		d.Unparsed = url.QueryEscape(r.URL.RawQuery)
	}
	kind, isJSON := mediaType(r.Header["Content-Type"])
	d.Type = kind
	switch {
	case len(body) == 0:
	case isJSON && d.Encoding == "" && utf8.Valid(body) && json.Valid(body):
		d.JSON = body
	default:
		d = d.hashed(body)
	}
	return d
}

// hashed is the description for a body that is not JSON, or JSON that has no
// canonical form because its members are not distinct.
func (d description) hashed(body []byte) description {
	sum := sha256.Sum256(body)
	d.JSON, d.SHA256 = nil, hex.EncodeToString(sum[:])
	return d
}

// mediaType returns a Content-Type in one form: lower case, its parameters
// sorted. A charset of JSON says nothing.
func mediaType(lines []string) (kind string, isJSON bool) {
	if len(lines) == 0 {
		return "", false
	}
	kind, parameters, err := mime.ParseMediaType(lines[0])
	if err != nil || len(lines) > 1 {
		return ascii(strings.Join(lines, ",")), false
	}
	isJSON = kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json")
	if isJSON && strings.EqualFold(parameters["charset"], "utf-8") {
		delete(parameters, "charset")
	}
	if formatted := mime.FormatMediaType(kind, parameters); formatted != "" {
		return ascii(formatted), isJSON
	}
	return ascii(lines[0]), isJSON
}

// ascii leaves plain text as it is and quotes any other: an encoder of JSON
// would make one and the same of all bytes that are not UTF-8.
func ascii(s string) string {
	if quoted := strconv.QuoteToASCII(s); quoted[1:len(quoted)-1] != s {
		return quoted
	}
	return s
}

// encode returns the description as a command's body.
func (d description) encode() json.RawMessage {
	encoded, err := json.Marshal(d)
	if err != nil {
		panic(err) // strings, and JSON that is valid
	}
	return encoded
}
