package bundle

import (
	"encoding/json"

	"slmc/model"
)

// Manifest says what a bundle holds and how it was made. Only deterministic
// facts belong here: no times, no paths, no host names. Numbers of a bundle
// that would have to count themselves (the length of the file, file_bpw) are
// methods of Bundle instead.
type Manifest struct {
	ToolVersion string      `json:"tool_version"`
	Graph       model.Graph `json:"graph"`
	// Weights says how and where each of Graph.Weights is stored, by index.
	Weights []Stored `json:"weights"`
	// Parameters counts the elements of all weights, a tied embedding once.
	Parameters int64 `json:"parameters"`
	// BPW is 8 * (length of the weights section) / Parameters, rounded to the
	// nearest multiple of 1/10000: codes, scales, norms and padding included.
	BPW      float64 `json:"bpw"`
	KVFormat string  `json:"kv_format"` // "f16" or "kv8"
	// Context is the number of positions that the bundle is made for; the
	// rotary tables cover them.
	Context int `json:"context"`
	// Kernels lists the operations that a runtime must offer, sorted:
	// "mat_w8g32", "kv8".
	Kernels    []string   `json:"kernels"`
	Memory     Memory     `json:"memory"`
	Tokenizer  Tokenizer  `json:"tokenizer"`
	Provenance Provenance `json:"provenance"`
	// Sections lists the sections by ascending offset.
	Sections []Section `json:"sections"`
}

// KV cache formats.
const (
	KVF16 = "f16" // float16 keys and values
	KV8   = "kv8" // 8-bit codes, one float16 scale per token, head, and K or V
)

// Stored is the place of one weight. A matrix is stored as
// quant.MatrixBytes of panels, a vector as little-endian float32.
type Stored struct {
	Name   string `json:"name"`   // that of Graph.Weights
	Format string `json:"format"` // a name that quant.Parse knows; "f32" for vectors
	Offset int64  `json:"offset"` // from the start of the weights section, a multiple of 64
	Bytes  int64  `json:"bytes"`
}

// Memory is the formula of the peak memory that a runtime allocates, in bytes.
// The mapped file comes on top: its pages are clean and can be dropped.
type Memory struct {
	Fixed       int64 `json:"fixed"`
	PerPosition int64 `json:"per_position"` // for each position of the context: the KV cache
	PerToken    int64 `json:"per_token"`    // for each token of the largest prefill batch
}

// Peak returns the bytes that a session with that context and batch needs.
func (m Memory) Peak(context, batch int) int64 {
	return m.Fixed + m.PerPosition*int64(context) + m.PerToken*int64(batch)
}

// Tokenizer says what the tokenizer section is and which ids steer generation.
type Tokenizer struct {
	Kind string `json:"kind"` // form of the section: "slmc" is that of tokenizer.Marshal; "" without one
	BOS  int    `json:"bos"`  // -1 when the model has none
	EOS  []int  `json:"eos"`  // ids that end a text or a turn
	Stop []int  `json:"stop"` // further ids that end generation
}

// Provenance says how the bundle was made.
type Provenance struct {
	Sources []SourceFile    `json:"sources"`
	Recipe  json.RawMessage `json:"recipe"` // the resolved recipe, an object
	Seeds   []Seed          `json:"seeds"`
	Reports []StageReport   `json:"reports"`
}

// SourceFile is one file of the checkpoint.
type SourceFile struct {
	Name   string `json:"name"` // base name only
	Bytes  int64  `json:"bytes"`
	SHA256 Digest `json:"sha256"`
}

// Seed is the seed of one stage, a decimal string in JSON since a double does
// not hold 64 bits.
type Seed struct {
	Stage string `json:"stage"`
	Seed  uint64 `json:"seed,string"`
}

// StageReport is the deterministic part of what a stage reported.
type StageReport struct {
	Stage   string          `json:"stage"`
	Version string          `json:"version"`
	Report  json.RawMessage `json:"report"` // an object
}

// Section is a run of bytes of the file. Required tells a reader that does not
// know the name to refuse the bundle instead of ignoring the section. Root is
// the SHA-256 of the SHA-256 of each of its leaves, so that one pass over the
// bytes gives both, on as many cores as there are.
type Section struct {
	Name     string `json:"name"`
	Required bool   `json:"required"`
	Offset   int64  `json:"offset"` // from the start of the file, a multiple of 16 KiB
	Length   int64  `json:"length"` // at least 1
	Root     Digest `json:"root"`
}

// Section returns the entry of that name, or nil.
func (m *Manifest) Section(name string) *Section {
	for i := range m.Sections {
		if m.Sections[i].Name == name {
			return &m.Sections[i]
		}
	}
	return nil
}
