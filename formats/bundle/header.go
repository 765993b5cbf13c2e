package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"slmc/formats"
)

// The header is 256 bytes, numbers little-endian:
//
//	  0   8  magic "SLMB" 0d 0a 1a 0a (a text-mode transfer breaks it)
//	  8   2  major version
//	 10   2  minor version
//	 12   4  length of the header, 256
//	 16   8  length of the file
//	 24   8  offset of the manifest
//	 32   8  length of the manifest
//	 40  32  SHA-256 of the manifest
//	 72   8  required-feature bits
//	 80   8  optional-feature bits
//	 88  24  oldest tool version that reads the bundle, ASCII, padded with zeros
//	112  32  SHA-256 of bytes 0 to 111
//	144   8  signature algorithm: 0 none, 1 Ed25519
//	152  32  public key
//	184  64  signature
//	248   8  the first bytes of the SHA-256 of bytes 144 to 247; zero when unsigned
//
// The bundle's digest is the SHA-256 of bytes 0 to 143 and the manifest: a
// signature does not change it.
const (
	atFileBytes = 16
	atMinTool   = 88
	atDigest    = 112
	atSignature = 144
	atKey       = 152
	atSigned    = 184
	atBlockSum  = 248
	minToolLen  = 24
)

const magic = "SLMB\r\n\x1a\n"

// signatureContext is what a signature says beside the digest, so that it can
// stand for nothing else.
const signatureContext = "slmb bundle digest v1\x00"

const (
	algoNone    = 0
	algoEd25519 = 1
)

// knownFeatures are the required-feature bits that this version implements.
const knownFeatures uint64 = 0

type header struct {
	major, minor       uint16
	fileBytes          int64
	manifestAt         int64
	manifestBytes      int64
	manifestSum        Digest
	required, optional uint64
	minTool            string
	key                ed25519.PublicKey // nil when unsigned
	signature          []byte
}

// encode returns the 256 bytes. minTool has been checked.
func (h *header) encode() []byte {
	b := make([]byte, 0, HeaderBytes)
	le := binary.LittleEndian
	b = append(b, magic...)
	b = le.AppendUint16(b, h.major)
	b = le.AppendUint16(b, h.minor)
	b = le.AppendUint32(b, HeaderBytes)
	b = le.AppendUint64(b, uint64(h.fileBytes))
	b = le.AppendUint64(b, uint64(h.manifestAt))
	b = le.AppendUint64(b, uint64(h.manifestBytes))
	b = append(b, h.manifestSum[:]...)
	b = le.AppendUint64(b, h.required)
	b = le.AppendUint64(b, h.optional)
	b = append(b, h.minTool...)
	b = b[:HeaderBytes]
	sum := sha256.Sum256(b[:atDigest])
	copy(b[atDigest:], sum[:])
	if h.key != nil {
		le.PutUint64(b[atSignature:], algoEd25519)
		copy(b[atKey:], h.key)
		copy(b[atSigned:], h.signature)
		sum := sha256.Sum256(b[atSignature:atBlockSum])
		copy(b[atBlockSum:], sum[:])
	}
	return b
}

// digest is that of the bundle.
func (h *header) digest(manifest []byte) Digest {
	sum := sha256.New()
	sum.Write(h.encode()[:atSignature])
	sum.Write(manifest)
	return Digest(sum.Sum(nil))
}

// signed is the message that a signature is made over.
func signed(d Digest) []byte { return append([]byte(signatureContext), d[:]...) }

// parseHeader reads the header of a file of size bytes and checks all that can
// be known without the manifest. b is what the file has of its first 256 bytes.
func parseHeader(file string, b []byte, size int64) (*header, error) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, formats.Corrupt(file, "", 0, "header: magic is %x, wanted %x: no bundle", b[:min(len(b), len(magic))], magic)
	}
	if len(b) < HeaderBytes {
		return nil, formats.Corrupt(file, "", int64(len(b)), "header: the file ends after %d bytes, wanted %d", len(b), HeaderBytes)
	}
	le := binary.LittleEndian
	h := &header{
		major:         le.Uint16(b[8:]),
		minor:         le.Uint16(b[10:]),
		fileBytes:     int64(le.Uint64(b[atFileBytes:])),
		manifestAt:    int64(le.Uint64(b[24:])),
		manifestBytes: int64(le.Uint64(b[32:])),
		manifestSum:   Digest(b[40:]),
		required:      le.Uint64(b[72:]),
		optional:      le.Uint64(b[80:]),
	}
	// The digest first: damage must not read as a version to upgrade to.
	if sum := sha256.Sum256(b[:atDigest]); !bytes.Equal(sum[:], b[atDigest:atSignature]) {
		return nil, formats.Corrupt(file, "", atDigest, "header: SHA-256 of bytes 0 to %d is %x, the header says %x", atDigest-1, sum, b[atDigest:atSignature])
	}
	minTool, err := parseMinTool(b[atMinTool:atDigest])
	if err != nil {
		return nil, formats.Corrupt(file, "", atMinTool, "header: %v", err)
	}
	h.minTool = minTool
	if h.major != Major {
		return nil, h.version(file, 8, "format version %d.%d, this reader knows %d.%d", h.major, h.minor, Major, Minor)
	}
	if n := le.Uint32(b[12:]); n != HeaderBytes {
		return nil, formats.Corrupt(file, "", 12, "header: length %d, wanted %d", n, HeaderBytes)
	}
	if unknown := h.required &^ knownFeatures; unknown != 0 {
		return nil, h.version(file, 72, "unknown required features %#x", unknown)
	}
	if err := h.checkPlaces(file, size); err != nil {
		return nil, err
	}
	return h, h.parseSignature(file, b)
}

// version reports that the bundle asks for a newer reader.
func (h *header) version(file string, at int64, format string, args ...any) error {
	from := h.minTool
	if from == "" {
		from = "a newer version"
	}
	return &formats.Error{File: file, Offset: at, Kind: formats.ErrVersion,
		Msg: fmt.Sprintf(format, args...) + "; slmc " + from + " reads it"}
}

func (h *header) checkPlaces(file string, size int64) error {
	switch {
	case h.fileBytes != size:
		return formats.Corrupt(file, "", atFileBytes, "header: file length %d, the file has %d bytes", h.fileBytes, size)
	case h.manifestBytes < 1 || h.manifestBytes > MaxManifest:
		return formats.Corrupt(file, "", 32, "header: manifest of %d bytes, wanted 1 to %d", h.manifestBytes, MaxManifest)
	case h.manifestAt < SectionAlign || h.manifestAt%SectionAlign != 0 || h.manifestAt != size-h.manifestBytes:
		return formats.Corrupt(file, "", 24, "header: manifest of %d bytes at %d, wanted at a multiple of %d and at the end of %d bytes",
			h.manifestBytes, h.manifestAt, SectionAlign, size)
	}
	return nil
}

func (h *header) parseSignature(file string, b []byte) error {
	switch algo := binary.LittleEndian.Uint64(b[atSignature:]); algo {
	case algoNone:
		if i := firstNonZero(b[atKey:HeaderBytes]); i >= 0 {
			return formats.Corrupt(file, "", int64(atKey+i), "header: signature bytes without a signature algorithm")
		}
	case algoEd25519:
		// The signature alone is no proof against damage: with the key of all
		// zeros, a point of order four, zeros verify for one message in four.
		if sum := sha256.Sum256(b[atSignature:atBlockSum]); !bytes.Equal(sum[:HeaderBytes-atBlockSum], b[atBlockSum:HeaderBytes]) {
			return formats.Corrupt(file, "", atSignature, "header: the signature is damaged: its checksum is %x, the header says %x", sum[:HeaderBytes-atBlockSum], b[atBlockSum:HeaderBytes])
		}
		h.key = bytes.Clone(b[atKey:atSigned])
		h.signature = bytes.Clone(b[atSigned:atBlockSum])
	default:
		return formats.Corrupt(file, "", atSignature, "header: signature algorithm %d, wanted 0 or 1", algo)
	}
	return nil
}

func parseMinTool(b []byte) (string, error) {
	text, pad, _ := bytes.Cut(b, []byte{0})
	if firstNonZero(pad) >= 0 {
		return "", fmt.Errorf("tool version %q: bytes after its end", b)
	}
	return string(text), checkMinTool(string(text))
}

func checkMinTool(s string) error {
	if len(s) > minToolLen {
		return fmt.Errorf("tool version %q: longer than %d", s, minToolLen)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("tool version %q: wanted printable ASCII", s)
		}
	}
	return nil
}

// firstNonZero returns the index of the first byte of b that is not zero, or -1.
func firstNonZero(b []byte) int {
	for i, c := range b {
		if c != 0 {
			return i
		}
	}
	return -1
}
