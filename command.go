package semel

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// MaxKey is the longest idempotency key, in bytes
// (draft-ietf-httpapi-idempotency-key-header-07 leaves it open; 255 is what
// the large providers of payment APIs take).
const MaxKey = 255

// A Command is a request to change something. Tenant, Principal, Name and Key
// together are its identity: sent again, it is the same command.
type Command struct {
	Tenant    string // for which customer; empty in a system with one
	Principal string // who asks; never empty, so that keys are never shared
	Name      string // which handler
	Key       string // idempotency key, made by the client before the first send

	// Body is the JSON that the handler's command type is decoded from.
	Body json.RawMessage

	// Correlation is kept with the operation and every event after it.
	Correlation Correlation
}

// ID returns the operation's identity, which the client can compute as well.
func (c Command) ID() ID {
	h := sha256.New()
	for _, part := range []string{"semel/1", c.Tenant, c.Principal, c.Name, c.Key} {
		var size [4]byte
		binary.BigEndian.PutUint32(size[:], uint32(len(part)))
		h.Write(size[:]) // lengths keep ("a","bc") apart from ("ab","c")
		h.Write([]byte(part))
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return ID(sum[:len(ID{})])
}

// An ID names an operation: the first 128 bits of a SHA-256 over tenant,
// principal, command name and idempotency key. One primary key so serves for
// deduplication, look-up and URL, and it fits the uuid type of a database.
// It may be guessed by who knows the four parts: reading is authorised.
type ID [16]byte

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String returns the 26 characters used in URLs.
func (id ID) String() string { return idEncoding.EncodeToString(id[:]) }

// MarshalText encodes id as [ID.String] does.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText decodes what [ID.String] returns.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// ParseID reads what [ID.String] wrote.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != idEncoding.EncodedLen(len(id)) {
		return ID{}, fmt.Errorf("semel: operation id %q: %d characters, want %d", s, len(s), idEncoding.EncodedLen(len(id)))
	}
	if _, err := idEncoding.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("semel: operation id %q: want letters a–z and digits 2–7", s)
	}
	if id.String() != s {
		return ID{}, fmt.Errorf("semel: operation id %q is not in its one canonical form", s)
	}
	return id, nil
}

// CheckKey reports what is wrong with an idempotency key: it takes 1 to
// [MaxKey] visible ASCII characters.
func CheckKey(key string) error {
	if key == "" {
		return fmt.Errorf("%w: the idempotency key is empty", ErrInvalid)
	}
	if len(key) > MaxKey {
		return fmt.Errorf("%w: the idempotency key has %d bytes; at most %d are taken", ErrInvalid, len(key), MaxKey)
	}
	for i := range len(key) {
		if key[i] < '!' || key[i] > '~' {
			return fmt.Errorf("%w: the idempotency key has byte 0x%02x at position %d; visible ASCII is taken", ErrInvalid, key[i], i)
		}
	}
	return nil
}

// check validates what the engine relies on; the body is the handler's matter.
func (c Command) check() error {
	if err := CheckKey(c.Key); err != nil {
		return err
	}
	if c.Principal == "" {
		return fmt.Errorf("%w: the principal is empty; keys are never shared between callers", ErrInvalid)
	}
	for _, field := range []struct{ name, value string }{
		{"tenant", c.Tenant}, {"principal", c.Principal}, {"name", c.Name},
	} {
		if len(field.value) > MaxKey || !utf8.ValidString(field.value) {
			return fmt.Errorf("%w: the %s is not valid UTF-8 of at most %d bytes", ErrInvalid, field.name, MaxKey)
		}
	}
	return nil
}

// A Fingerprint is a versioned hash of what was asked: the scope and the body
// in canonical form. The same key with another fingerprint is refused with
// [ErrKeyReused]. Covering the scope as well makes a collision of two ids an
// error instead of a stranger's answer.
type Fingerprint [sha256.Size]byte

// fingerprintVersion is the first byte of every fingerprint: a later form of
// the canonical JSON must not turn stored keys into errors.
const fingerprintVersion = 1

func (c Command) fingerprint(canonicalBody []byte) Fingerprint {
	h := sha256.New()
	id := c.ID()
	h.Write([]byte{fingerprintVersion})
	h.Write(id[:])
	for _, part := range []string{c.Tenant, c.Principal, c.Name} {
		var size [4]byte
		binary.BigEndian.PutUint32(size[:], uint32(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	h.Write(canonicalBody)
	var f Fingerprint
	h.Sum(f[:0])
	f[0] = fingerprintVersion
	return f
}
