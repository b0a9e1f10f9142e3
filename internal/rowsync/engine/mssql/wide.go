package mssql

import (
	"encoding/binary"
	"unicode/utf16"
	"unicode/utf8"
)

// Characters travel as UTF-8, except that a surrogate without its partner, which
// nvarchar may hold, is written as the three bytes that UTF-8 would use for it if it
// were allowed (WTF-8). Go's own conversions put U+FFFD in its place: another value.

// fromUTF16 turns UTF-16LE into that form. An odd last byte is dropped.
func fromUTF16(b []byte) []byte {
	out := make([]byte, 0, len(b)*3/4)
	for len(b) >= 2 {
		u := rune(binary.LittleEndian.Uint16(b))
		b = b[2:]
		if utf16.IsSurrogate(u) && len(b) >= 2 {
			if r := utf16.DecodeRune(u, rune(binary.LittleEndian.Uint16(b))); r != utf8.RuneError {
				out = utf8.AppendRune(out, r)
				b = b[2:]
				continue
			}
		}
		if utf16.IsSurrogate(u) {
			out = append(out, 0xe0|byte(u>>12), 0x80|byte(u>>6)&0x3f, 0x80|byte(u)&0x3f)
			continue
		}
		out = utf8.AppendRune(out, u)
	}
	return out
}

// toUTF16 is the inverse. Bytes that are no characters at all become U+FFFD.
func toUTF16(b []byte) []byte {
	out := make([]byte, 0, 2*len(b))
	for len(b) > 0 {
		if s, ok := loneSurrogate(b); ok {
			out = binary.LittleEndian.AppendUint16(out, s)
			b = b[3:]
			continue
		}
		r, n := utf8.DecodeRune(b)
		b = b[n:]
		if r1, r2 := utf16.EncodeRune(r); r1 != utf8.RuneError {
			out = binary.LittleEndian.AppendUint16(out, uint16(r1))
			out = binary.LittleEndian.AppendUint16(out, uint16(r2))
			continue
		}
		out = binary.LittleEndian.AppendUint16(out, uint16(r))
	}
	return out
}

func loneSurrogate(b []byte) (uint16, bool) {
	if len(b) < 3 || b[0] != 0xed || b[1] < 0xa0 || b[1] > 0xbf || b[2]&0xc0 != 0x80 {
		return 0, false
	}
	return 0xd000 | uint16(b[1]&0x3f)<<6 | uint16(b[2]&0x3f), true
}
