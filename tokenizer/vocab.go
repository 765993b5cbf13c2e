package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// Bounds on what a file may ask for. The largest published vocabularies have
// about 262,000 entries and tokens of 256 bytes.
const (
	maxVocab    = 1 << 22
	maxTokenLen = 1 << 12
	maxMerges   = 1 << 23
)

// Token kinds. The low bits hold the kind, kindRaw marks a token of a
// byte-level vocabulary that is stored as the bytes it stands for instead of
// as the printable characters of its file.
const (
	kindAbsent  = 0 // no token has this id
	kindNormal  = 1
	kindUnknown = 2
	kindControl = 3
	kindUser    = 4
	kindUnused  = 5
	kindByte    = 6
	kindMask    = 7
	kindRaw     = 8
	kindMarkup  = 16 // a user-defined piece that marks up chats
)

// vocab maps ids to token strings and back. All strings lie in one blob, so
// that a vocabulary of 262,000 tokens is three allocations and can be read
// from a bundle as it lies.
type vocab struct {
	blob  string
	off   []uint32 // len n+1: token i is blob[off[i]:off[i+1]]
	kind  []byte   // len n
	slots []uint64 // open addressing: high half of the hash, id+1; 0 is empty; length a power of two
}

func (v *vocab) size() int { return len(v.kind) }

// at returns the stored bytes of token id, which must be in range.
func (v *vocab) at(id int32) string { return v.blob[v.off[id]:v.off[id+1]] }

func (v *vocab) has(id int32) bool {
	return id >= 0 && int(id) < len(v.kind) && v.kind[id] != kindAbsent
}

// hashString is a multiply-rotate hash over 8 bytes at a time. It is fixed,
// not seeded, because the order in which colliding entries are found must not
// depend on the process.
func hashString(s string) uint64 {
	const m = 0x9E3779B97F4A7C15
	h := uint64(len(s)) * m
	for len(s) >= 8 {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		h = bits.RotateLeft64(h^w, 29) * m
		s = s[8:]
	}
	var w uint64
	for i := 0; i < len(s); i++ {
		w |= uint64(s[i]) << (8 * i)
	}
	h = bits.RotateLeft64(h^w, 29) * m
	return h ^ h>>32
}

// find returns the id of the token stored as s with the given raw form, or -1.
func (v *vocab) find(s string, raw bool) int32 {
	want := byte(0)
	if raw {
		want = kindRaw
	}
	h := hashString(s)
	mask := uint64(len(v.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		e := v.slots[i]
		if e == 0 {
			return -1
		}
		if e>>32 != h>>32 {
			continue
		}
		if id := int32(uint32(e)) - 1; v.kind[id]&kindRaw == want && v.at(id) == s {
			return id
		}
	}
}

// index builds the hash table; two ids with the same string are an error.
func (v *vocab) index() error {
	n := 64
	for n < 2*len(v.kind) {
		n *= 2
	}
	v.slots = make([]uint64, n)
	mask := uint64(n - 1)
	for id := range v.kind {
		if v.kind[id] == kindAbsent {
			continue
		}
		s := v.at(int32(id))
		h := hashString(s)
		i := h & mask
		for v.slots[i] != 0 {
			if v.slots[i]>>32 == h>>32 {
				o := int32(uint32(v.slots[i])) - 1
				if v.kind[o]&kindRaw == v.kind[id]&kindRaw && v.at(o) == s {
					return fmt.Errorf("%w: ids %d and %d are both token %q", ErrCorrupt, o, id, s)
				}
			}
			i = (i + 1) & mask
		}
		v.slots[i] = h&^0xffffffff | uint64(id+1)
	}
	return nil
}

// newVocab stores tokens by id. Where raw is set, tokens made of byte-level
// characters only are stored as the bytes they stand for.
func newVocab(tokens []string, kinds []byte, raw bool) (*vocab, error) {
	if len(tokens) > maxVocab {
		return nil, fmt.Errorf("%w: vocabulary of %d tokens, at most %d are supported", ErrUnsupported, len(tokens), maxVocab)
	}
	v := &vocab{off: make([]uint32, 1, len(tokens)+1), kind: make([]byte, len(tokens))}
	total := 0
	for _, t := range tokens {
		total += len(t)
	}
	if total >= 1<<31 {
		return nil, fmt.Errorf("%w: vocabulary of %d bytes", ErrUnsupported, total)
	}
	blob := make([]byte, 0, total)
	for id, t := range tokens {
		v.kind[id] = kinds[id]
		if len(t) > maxTokenLen {
			return nil, fmt.Errorf("%w: token %d is %d bytes long, at most %d are supported", ErrUnsupported, id, len(t), maxTokenLen)
		}
		if kinds[id] != kindAbsent {
			n := len(blob)
			ok := false
			if raw {
				blob, ok = appendByteLevelDecoded(blob, t)
			}
			if ok {
				v.kind[id] |= kindRaw
			} else {
				blob = append(blob[:n], t...)
			}
		}
		v.off = append(v.off, uint32(len(blob)))
	}
	v.blob = string(blob)
	return v, nil
}

// byteLevelRune is GPT-2's printable stand-in for byte b (arXiv: Radford et
// al. 2019, released code): printable Latin-1 stands for itself, the other 68
// bytes are U+0100 onwards in order.
var byteLevelRune, byteLevelByte = byteLevelTables()

func byteLevelTables() (enc [256]rune, dec [0x144]int16) {
	for i := range dec {
		dec[i] = -1
	}
	n := rune(0)
	for b := 0; b < 256; b++ {
		if b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE {
			enc[b] = rune(b)
		} else {
			enc[b] = 0x100 + n
			n++
		}
		dec[enc[b]] = int16(b)
	}
	return enc, dec
}

// appendByteLevelDecoded appends the bytes that the byte-level characters of s
// stand for. If s has any other character it reports false.
func appendByteLevelDecoded(dst []byte, s string) ([]byte, bool) {
	for _, r := range s {
		if int(r) >= len(byteLevelByte) || byteLevelByte[r] < 0 {
			return dst, false
		}
		dst = append(dst, byte(byteLevelByte[r]))
	}
	return dst, true
}

// appendByteLevelEncoded appends the printable characters for the bytes of s.
func appendByteLevelEncoded(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		dst = utf8.AppendRune(dst, byteLevelRune[s[i]])
	}
	return dst
}

// text returns token id as its file writes it.
func (v *vocab) text(id int32) string {
	s := v.at(id)
	if v.kind[id]&kindRaw != 0 {
		return string(appendByteLevelEncoded(nil, s))
	}
	return s
}

// lookup returns the id of the token that a file writes as s, or -1.
func (v *vocab) lookup(s string) int32 {
	var buf [64]byte
	if raw, ok := appendByteLevelDecoded(buf[:0], s); ok {
		if id := v.find(string(raw), true); id >= 0 {
			return id
		}
	}
	return v.find(s, false)
}

// byteToken parses the form <0xAB> of byte-fallback tokens.
func byteToken(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	hi, ok1 := unhex(s[3])
	lo, ok2 := unhex(s[4])
	return hi<<4 | lo, ok1 && ok2
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// pairTable maps a pair of ids to its merge. It holds 4 bytes a slot and
// leaves the pair itself in the merge list: 4 MB instead of 16 for half a
// million merges.
type pairTable struct {
	merges []merge
	slots  []int32
	shift  uint
}

// merge joins tokens left and right into token out; its index is its rank.
type merge struct{ left, right, out int32 }

func pairHash(l, r int32) uint64 {
	return (uint64(uint32(l))<<32 | uint64(uint32(r))) * 0x9E3779B97F4A7C15
}

func newPairTable(merges []merge) pairTable {
	n, shift := 64, uint(58)
	for n < 2*len(merges) {
		n *= 2
		shift--
	}
	t := pairTable{merges: merges, slots: make([]int32, n), shift: shift}
	mask := uint64(n - 1)
	for i, m := range merges {
		j := pairHash(m.left, m.right) >> shift
		for t.slots[j] != 0 {
			if o := &merges[t.slots[j]-1]; o.left == m.left && o.right == m.right {
				break
			}
			j = (j + 1) & mask
		}
		t.slots[j] = int32(i) + 1
	}
	return t
}

// rank returns the rank of the merge of l and r, or -1.
func (t *pairTable) rank(l, r int32) int32 {
	mask := uint64(len(t.slots) - 1)
	for j := pairHash(l, r) >> t.shift; ; j = (j + 1) & mask {
		e := t.slots[j]
		if e == 0 {
			return -1
		}
		if m := &t.merges[e-1]; m.left == l && m.right == r {
			return e - 1
		}
	}
}

func leUint32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
