// Package bundle reads and writes .slmb files: what slmc emits and a phone
// maps. docs/bundle.md specifies the format to the byte; in short
//
//	header    256 bytes, with a digest of itself and of the manifest, and room
//	          for an Ed25519 signature over both
//	sections  each at a multiple of 16 KiB, one after the other
//	manifest  canonical JSON: the graph, where its weights lie, how they were
//	          made, and the digests of all sections; the file ends with it
//
// Open maps a file and checks the header, the manifest and every promise that
// the manifest makes about the file, so that a runtime can trust offsets,
// shapes and formats without looking again. Check reads the rest and compares
// every digest.
//
// Failures are *formats.Error of kind ErrCorrupt (damage, a signature),
// ErrVersion (a bundle of a newer slmc) or ErrUnsupported.
package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// The version of the format that this package writes. A reader accepts any
// minor version of its major version: see docs/bundle.md.
const (
	Major = 1
	Minor = 0
)

// Names of the sections that this version knows.
const (
	SectionWeights   = "weights"   // panels and vectors of all weights, used in place
	SectionRope      = "rope"      // tables of cosines and sines
	SectionTokenizer = "tokenizer" // in the form that Tokenizer.Kind names
	SectionTemplate  = "template"  // the chat template's source, UTF-8
	SectionGolden    = "golden"    // canonical JSON, see Golden
	SectionRouter    = "router"    // room for the deferral router
	SectionLeaves    = "leaves"    // SHA-256 of each LeafBytes of the others, in order
)

// Alignments and bounds of the format.
const (
	SectionAlign = 16 << 10 // the larger page size of Android
	WeightAlign  = 64       // a cache line and a panel's block
	LeafBytes    = 1 << 20
	HeaderBytes  = 256
	MaxManifest  = 1 << 20
	MaxGolden    = 16 << 20
)

// Digest is a SHA-256.
type Digest [sha256.Size]byte

// String returns 64 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(text []byte) error { return unhex(d[:], text) }

func unhex(dst, text []byte) error {
	if hex.DecodedLen(len(text)) != len(dst) || len(text)%2 != 0 {
		return fmt.Errorf("digest of %d characters, wanted %d", len(text), hex.EncodedLen(len(dst)))
	}
	_, err := hex.Decode(dst, text)
	return err
}
