package bundle

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"slmc/formats"
)

func testKey(t testing.TB, seed byte) ed25519.PrivateKey {
	t.Helper()
	key, err := GenerateKey(rand.NewChaCha8([32]byte{seed}))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestKeysAgainstX509 compares the key files with those of crypto/x509.
func TestKeysAgainstX509(t *testing.T) {
	key := testKey(t, 1)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	privatePEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	if got := EncodePrivateKey(key); !bytes.Equal(got, privatePEM) {
		t.Errorf("private key:\n%swanted\n%s", got, privatePEM)
	}
	if got := EncodePublicKey(key.Public().(ed25519.PublicKey)); !bytes.Equal(got, publicPEM) {
		t.Errorf("public key:\n%swanted\n%s", got, publicPEM)
	}
	if got, err := ParsePrivateKey("k", privatePEM); err != nil || !got.Equal(key) {
		t.Errorf("private key read back: %v", err)
	}
	if got, err := ParsePublicKey("k", publicPEM); err != nil || !got.Equal(key.Public()) {
		t.Errorf("public key read back: %v", err)
	}
	for _, text := range [][]byte{nil, []byte("key"), publicPEM[:40], privatePEM, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public[:43]})} {
		if _, err := ParsePublicKey("k", text); !errors.Is(err, formats.ErrUnsupported) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestGenerateKey(t *testing.T) {
	a, errA := GenerateKey(nil)
	b, errB := GenerateKey(nil)
	if errA != nil || errB != nil || a.Equal(b) {
		t.Errorf("keys %x and %x, %v, %v", a, b, errA, errB)
	}
	if _, err := GenerateKey(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("a key of 31 bytes")
	}
	if same := testKey(t, 9); !same.Equal(testKey(t, 9)) {
		t.Error("one seed gives two keys")
	}
}

func TestWriteKey(t *testing.T) {
	folder := t.TempDir()
	private, public := filepath.Join(folder, "key.pem"), filepath.Join(folder, "key.pub.pem")
	key := testKey(t, 2)
	if err := WriteKey(private, public, key); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(private)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && st.Mode().Perm() != 0o600 {
		t.Errorf("private key has mode %v", st.Mode())
	}
	a, errA := ReadPrivateKey(private)
	b, errB := ReadPublicKey(public)
	if errA != nil || errB != nil || !a.Equal(key) || !b.Equal(key.Public()) {
		t.Errorf("read back: %v, %v", errA, errB)
	}
	if err := WriteKey(private, public, testKey(t, 3)); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an old key: %v", err)
	}
}

func TestSign(t *testing.T) {
	path, plain := writeTiny(t, tinySpec(t, tinyDims))
	key, other := testKey(t, 4), testKey(t, 5)
	public := key.Public().(ed25519.PublicKey)
	digest := mustOpen(t, path).Digest()

	_, err := Open(path, Options{PublicKey: public})
	if !errors.Is(err, ErrUnsigned) || !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("unsigned: %v", err)
	}
	for _, k := range []ed25519.PrivateKey{other, key} { // the second replaces the first
		if err := Sign(path, k); err != nil {
			t.Fatal(err)
		}
		b := mustOpen(t, path)
		if !b.Signer().Equal(k.Public()) || b.Digest() != digest {
			t.Errorf("signer %x, digest %s, wanted %s", b.Signer(), b.Digest(), digest)
		}
		err := b.VerifySignature(public)
		if want := bytes.Equal(k, key); want != (err == nil) || !want && (!errors.Is(err, ErrOtherKey) || !errors.Is(err, formats.ErrCorrupt)) {
			t.Errorf("verify: %v", err)
		}
		if err := b.Check(context.Background(), nil); err != nil {
			t.Error(err)
		}
	}
	b, err := Open(path, Options{PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(signed[:atSignature], plain[:atSignature]) || !bytes.Equal(signed[HeaderBytes:], plain[HeaderBytes:]) {
		t.Error("signing changed bytes outside the signature")
	}
	// A signature of another bundle.
	copy(plain[atSignature:], signed[atSignature:HeaderBytes])
	forged := forge(t, plain, func(m *Manifest) { m.Memory.Fixed++ }, nil)
	if err := os.WriteFile(path, forged, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("a moved signature: %v", err)
	}
}
