package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"slmc/formats"
)

// Signature states that VerifySignature tells apart. Each comes with kind
// ErrCorrupt: a bundle that must be signed and is not is not to be trusted.
var (
	ErrUnsigned = errors.New("not signed")
	ErrOtherKey = errors.New("signed by another key")
)

// Ed25519 keys have one DER encoding each (RFC 8410, sections 4 and 7): these
// bytes and the 32 bytes of the key or seed. Spelled out here, because
// crypto/x509 would link the network stack into the phone's binary.
var (
	publicPrefix  = []byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}
	privatePrefix = []byte{0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20}
)

// PEM block types.
const (
	publicType  = "PUBLIC KEY"
	privateType = "PRIVATE KEY"
)

// maxKeyFile bounds a key file; one has about 120 bytes.
const maxKeyFile = 64 << 10

// GenerateKey makes a signing key from 32 bytes of random, which is the
// system's secure generator when nil.
func GenerateKey(random io.Reader) (ed25519.PrivateKey, error) {
	if random == nil {
		random = rand.Reader
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// EncodePrivateKey returns the PKCS #8 PEM form of key.
func EncodePrivateKey(key ed25519.PrivateKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: privateType, Bytes: append(bytes.Clone(privatePrefix), key.Seed()...)})
}

// EncodePublicKey returns the PKIX PEM form of key.
func EncodePublicKey(key ed25519.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: publicType, Bytes: append(bytes.Clone(publicPrefix), key...)})
}

// ParsePrivateKey reads a PKCS #8 PEM Ed25519 key, as EncodePrivateKey and
// openssl genpkey write it. file is what errors call it.
func ParsePrivateKey(file string, text []byte) (ed25519.PrivateKey, error) {
	seed, err := parseKey(file, text, privateType, privatePrefix)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// ParsePublicKey reads a PKIX PEM Ed25519 key. file is what errors call it.
func ParsePublicKey(file string, text []byte) (ed25519.PublicKey, error) {
	return parseKey(file, text, publicType, publicPrefix)
}

func parseKey(file string, text []byte, kind string, prefix []byte) ([]byte, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, formats.Unsupported(file, "", -1, "no PEM block, wanted an Ed25519 %s", kind)
	}
	if block.Type != kind {
		return nil, formats.Unsupported(file, "", -1, "PEM block %.40q, wanted %q", block.Type, kind)
	}
	key, ok := bytes.CutPrefix(block.Bytes, prefix)
	if !ok || len(key) != 32 {
		return nil, formats.Unsupported(file, "", -1, "%s is no Ed25519 key", kind)
	}
	return key, nil
}

// WriteKey writes the two halves of a key, the private one with mode 0600. A
// file that exists is not overwritten.
func WriteKey(privatePath, publicPath string, key ed25519.PrivateKey) error {
	if err := createNew(privatePath, 0o600, EncodePrivateKey(key)); err != nil {
		return err
	}
	return createNew(publicPath, 0o644, EncodePublicKey(key.Public().(ed25519.PublicKey)))
}

func createNew(path string, mode os.FileMode, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// ReadPrivateKey reads a key file.
func ReadPrivateKey(path string) (ed25519.PrivateKey, error) {
	text, err := readKey(path)
	if err != nil {
		return nil, err
	}
	return ParsePrivateKey(filepath.Base(path), text)
}

// ReadPublicKey reads a key file.
func ReadPublicKey(path string) (ed25519.PublicKey, error) {
	text, err := readKey(path)
	if err != nil {
		return nil, err
	}
	return ParsePublicKey(filepath.Base(path), text)
}

func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	return text, errors.Join(err, f.Close())
}

// Signer returns the key in the header, nil when the bundle is not signed. Open
// has verified the signature with it; whose key it is it cannot know.
func (b *Bundle) Signer() ed25519.PublicKey { return b.header.key }

// VerifySignature returns nil when key signed the bundle, and otherwise
// ErrUnsigned or ErrOtherKey, both of kind ErrCorrupt. It vouches for header
// and manifest; Check holds the contents to the digests in the manifest.
func (b *Bundle) VerifySignature(key ed25519.PublicKey) error {
	e := &formats.Error{File: b.name, Offset: atSignature, Kind: formats.ErrCorrupt}
	switch {
	case b.header.key == nil:
		e.Msg, e.Err = fmt.Sprintf("a signature by key %x is wanted", []byte(key)), ErrUnsigned
	case !bytes.Equal(b.header.key, key):
		e.Msg, e.Err = fmt.Sprintf("key %x, wanted %x", []byte(b.header.key), []byte(key)), ErrOtherKey
	default:
		return nil // parse has verified it
	}
	return e
}

// Sign signs the bundle at path with key, in place of any signature that it
// carries. Its digest stays. The header and the manifest must be sound; the
// contents are not read, so check a bundle before signing it.
func Sign(path string, key ed25519.PrivateKey) error {
	b, err := Open(path, Options{})
	if err != nil {
		return err
	}
	err = sign(path, b, key)
	return errors.Join(err, b.Close())
}

func sign(path string, b *Bundle, key ed25519.PrivateKey) error {
	h := *b.header
	h.key = key.Public().(ed25519.PublicKey)
	h.signature = ed25519.Sign(key, signed(b.digest))
	return formats.ReplaceFile(path, 0o644, func(f *os.File) error {
		if _, err := io.Copy(f, io.NewSectionReader(b.r, 0, b.size)); err != nil {
			return err
		}
		if _, err := f.WriteAt(h.encode(), 0); err != nil {
			return err
		}
		return b.Close() // Windows renames over a file only when it is closed
	})
}
