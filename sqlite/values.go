package sqlite

import (
	"database/sql/driver"
	"time"
	"unsafe"
)

// micros is how times are stored; the zero time is NULL.
func micros(t time.Time) driver.Value {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func moment(v driver.Value) time.Time {
	us, ok := v.(int64)
	if !ok {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// optional stores an empty value as NULL.
func optional(b []byte) driver.Value {
	if len(b) == 0 {
		return nil
	}
	return b
}

// document stores JSON as text, which people can read in any SQLite shell. The
// driver copies it before the caller can change b.
func document(b []byte) driver.Value {
	if len(b) == 0 {
		return nil
	}
	return unsafe.String(unsafe.SliceData(b), len(b))
}

func bytesOf(v driver.Value) []byte {
	switch v := v.(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	return nil
}

func stringOf(v driver.Value) string {
	s, _ := v.(string)
	return s
}

func intOf(v driver.Value) int64 {
	n, _ := v.(int64)
	return n
}
