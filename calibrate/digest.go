package calibrate

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"

	"slmc/model"
)

// Digest is a SHA-256.
type Digest [sha256.Size]byte

// String is the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

func sum(h hash.Hash) (d Digest) {
	h.Sum(d[:0])
	return d
}

// Digest identifies the token ids and where sequences end.
func (s Sequences) Digest() Digest {
	h := sha256.New()
	w := bufio.NewWriter(h)
	for _, q := range s {
		var b []byte
		b = binary.LittleEndian.AppendUint32(b, uint32(len(q)))
		for _, id := range q {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
		w.Write(b)
	}
	w.Flush() // neither a bufio.Writer over it nor a hash fails
	return sum(h)
}

// ModelDigest identifies a model by its graph and the values of its weights,
// whatever file they came from.
func ModelDigest(m *model.Model) (Digest, error) {
	h := sha256.New()
	graph, err := json.Marshal(m.Graph)
	if err != nil {
		return Digest{}, fmt.Errorf("graph: %w", err)
	}
	h.Write(graph)
	x := make([]float32, 1<<16)
	raw := make([]byte, 4*len(x))
	for i, w := range m.Weights {
		for off, n := 0, w.Elems(); off < n; off += len(x) {
			part := x[:min(len(x), n-off)]
			if err := m.Values.Read(i, off, part); err != nil {
				return Digest{}, fmt.Errorf("read %s: %w", w.Name, err)
			}
			putFloats(raw, part)
			h.Write(raw[:4*len(part)])
		}
	}
	return sum(h), nil
}
