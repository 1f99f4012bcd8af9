package client

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The frame of one record. docs/pending-file.md describes it for other
// programs; change neither without the other.
//
//	0   4  mark: FF 53 4D 4C
//	4   4  length of the payload, little endian
//	8   4  CRC-32C of the mark and the length
//	12  4  CRC-32C of the payload
//	16  n  payload, one JSON object
//
// The head has a sum of its own, so that a damaged payload does not cost the
// records after it. Where a head is damaged, the next mark is looked for. JSON
// never has the byte FF in it, so that no payload, whoever made it, can hold
// what looks like a frame.
const (
	headSize   = 16
	maxPayload = 64 << 20
)

var (
	mark       = []byte{0xFF, 'S', 'M', 'L'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// appendFrame appends the payload in its frame.
func appendFrame(to, payload []byte) []byte {
	to = append(to, mark...)
	to = binary.LittleEndian.AppendUint32(to, uint32(len(payload)))
	to = binary.LittleEndian.AppendUint32(to, crc32.Checksum(to[len(to)-8:], castagnoli))
	to = binary.LittleEndian.AppendUint32(to, crc32.Checksum(payload, castagnoli))
	return append(to, payload...)
}

// A Damage is a stretch of a pending file that could not be read.
type Damage struct {
	Offset, Length int64
	// Torn is set for what a crash leaves of a record that was just being
	// written: it was never acknowledged, and nothing is lost. Anything else
	// means that the file was changed by something else.
	Torn   bool
	Reason string
}

// String describes the damage in one line.
func (d Damage) String() string {
	return fmt.Sprintf("%d bytes at %d: %s", d.Length, d.Offset, d.Reason)
}

// readFrames calls take with every sound payload and where its frame begins,
// and returns the damages. A payload that take refuses is a damage as well.
func readFrames(data []byte, take func(payload []byte, at int64) error) []Damage {
	var damages []Damage
	for at := 0; at < len(data); {
		size, damage := readFrame(data[at:], func(payload []byte) error { return take(payload, int64(at)) })
		if damage != nil {
			damage.Offset, damage.Length = int64(at), int64(size)
			damages = append(damages, *damage)
		}
		at += size
	}
	return damages
}

// readFrame reads what data begins with, and returns how many bytes that is.
func readFrame(data []byte, take func([]byte) error) (int, *Damage) {
	if zeros := len(bytes.TrimLeft(data, "\x00")) == 0; zeros || len(data) < headSize && bytes.HasPrefix(mark, data[:min(4, len(data))]) {
		return len(data), &Damage{Torn: true, Reason: "the head of a record, cut off"}
	}
	length, ok := readHead(data)
	if !ok {
		return nextHead(data), &Damage{Reason: "no record begins here"}
	}
	if length > len(data)-headSize {
		// The head is sound, so this is a record that was cut off; but a later
		// one may have been written after a part in the middle was lost.
		size := nextHead(data)
		return size, &Damage{Torn: size == len(data), Reason: fmt.Sprintf("a record of %d bytes, cut off", length)}
	}
	payload := data[headSize : headSize+length]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(data[12:]) {
		size := headSize + length
		if cut := nextHead(data); cut < size {
			return cut, &Damage{Reason: fmt.Sprintf("a record of %d bytes, cut off in the middle of the file", length)}
		}
		torn := size == len(data) && len(bytes.TrimRight(payload, "\x00")) < len(payload)
		return size, &Damage{Torn: torn, Reason: fmt.Sprintf("a record of %d bytes has changed", length)}
	}
	if err := take(payload); err != nil {
		return headSize + length, &Damage{Reason: err.Error()}
	}
	return headSize + length, nil
}

func readHead(data []byte) (length int, ok bool) {
	if len(data) < headSize || !bytes.HasPrefix(data, mark) ||
		crc32.Checksum(data[:8], castagnoli) != binary.LittleEndian.Uint32(data[8:]) {
		return 0, false
	}
	n := binary.LittleEndian.Uint32(data[4:])
	return int(n), n <= maxPayload
}

// nextHead returns where the next sound head begins after the first byte, or
// else the end.
func nextHead(data []byte) int {
	for at := 1; ; at++ {
		i := bytes.Index(data[at:], mark)
		if i < 0 {
			return len(data)
		}
		at += i
		if _, ok := readHead(data[at:]); ok {
			return at
		}
	}
}
