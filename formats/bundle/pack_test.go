package bundle

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"

	"slmc/formats"
)

// packed returns a bundle, its delivery file and the path of that.
func packed(t testing.TB, s Spec) (content, zst []byte, path string) {
	t.Helper()
	src, content := writeTiny(t, s)
	path = src + ".zst"
	if err := Pack(context.Background(), src, path, nil); err != nil {
		t.Fatal(err)
	}
	zst, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content, zst, path
}

func TestPackUnpack(t *testing.T) {
	s := damageSpec(t)
	s.Sections[0].Bytes = bytes.Repeat(s.Sections[0].Bytes, 8) // more than two frames
	content, zst, path := packed(t, s)
	_, again, _ := packed(t, s)
	if !bytes.Equal(zst, again) {
		t.Error("two packs of one bundle differ")
	}
	dst := filepath.Join(t.TempDir(), "y.slmb")
	last := int64(0)
	err := Unpack(context.Background(), path, dst, Options{}, func(done, total int64) {
		if last = done; total != int64(len(content)) {
			t.Fatalf("total %d, wanted %d", total, len(content))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dst)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("unpacked bytes differ, %v", err)
	}
	if last != int64(len(content)) {
		t.Errorf("progress ended at %d", last)
	}
}

// TestPackSeekable reads pieces of the bundle through the seek table.
func TestPackSeekable(t *testing.T) {
	s := damageSpec(t)
	s.Sections[0].Bytes = bytes.Repeat(s.Sections[0].Bytes, 8)
	content, zst, _ := packed(t, s)
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	r, err := seekable.NewReader(bytes.NewReader(zst), dec)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, frameBytes - 10, 2*frameBytes + 77, len(content) - 20} {
		got := make([]byte, 20)
		if _, err := r.ReadAt(got, int64(at)); err != nil || !bytes.Equal(got, content[at:at+20]) {
			t.Errorf("byte %d: %x, %v, wanted %x", at, got, err, content[at:at+20])
		}
	}
}

// TestUnpackDamage flips a bit in every 64 bytes of a delivery file and cuts
// it: an error or, where the seek table is hit, the same bundle.
func TestUnpackDamage(t *testing.T) {
	content, zst, path := packed(t, tinySpec(t, tinyDims))
	unpackTo := func(bad []byte) (string, error) {
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(filepath.Dir(path), "out.slmb")
		if err := os.RemoveAll(dst); err != nil {
			t.Fatal(err)
		}
		return dst, Unpack(context.Background(), path, dst, Options{}, nil)
	}
	for at := 0; at < len(zst); at += 64 {
		bad := bytes.Clone(zst)
		bad[at] ^= 1 << (at / 64 % 8)
		dst, err := unpackTo(bad)
		if err == nil {
			if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, content) {
				t.Errorf("byte %d: no error, and other bytes", at)
			}
			continue
		}
		if !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("byte %d: %v", at, err)
		}
		if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("byte %d: a file is left: %v", at, err)
		}
	}
	for n := 0; n < len(zst)-200; n += 256 { // the last bytes are the seek table
		if _, err := unpackTo(zst[:n]); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 2 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}

func compress(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	enc, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if _, err := enc.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestUnpackBombs: claims that do not fit, and more data than claimed.
func TestUnpackBombs(t *testing.T) {
	_, content := writeTiny(t, tinySpec(t, tinyDims))
	b, err := parseBytes(content)
	if err != nil {
		t.Fatal(err)
	}
	claim := func(n int64) []byte {
		h := *b.header
		h.fileBytes, h.manifestAt = n, n-h.manifestBytes
		return h.encode()
	}
	zeros := make([]byte, 8<<20)
	aligned := int64(1<<40) + b.header.manifestBytes
	// A frame header (RFC 8878, section 3.1.1) with a window of 2^31 bytes.
	window := append(binary.LittleEndian.AppendUint32(nil, 0xfd2fb528), 0x00, 21<<3, 0x01, 0x00, 0x00)
	for name, c := range map[string]struct {
		zst  []byte
		want string
	}{
		"claims a terabyte":      {compress(t, claim(aligned)), "claim to hold 1099511"},
		"claims less":            {compress(t, content, zeros), "more than the"},
		"claims more":            {compress(t, content[:len(content)-9]), "ends or breaks"},
		"no bundle":              {compress(t, zeros), "magic"},
		"other stream":           {[]byte("PK\x03\x04 and so on"), "magic number mismatch"},
		"nothing":                {nil, "wanted a header"},
		"window of two gigabyte": {window, "window"},
	} {
		var out counter
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := unpack(context.Background(), "x.slmb.zst", bytes.NewReader(c.zst), int64(len(c.zst)), &out, nil)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, wanted %q", name, err, c.want)
		}
		if out > counter(len(content)) {
			t.Errorf("%s: %d bytes written", name, out)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 48<<20 {
			t.Errorf("%s: %d bytes allocated", name, used)
		}
	}
}

// counter counts what is written.
type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func TestUnpackSignature(t *testing.T) {
	src, _ := writeTiny(t, tinySpec(t, tinyDims))
	key := testKey(t, 1)
	if err := Sign(src, key); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := Pack(ctx, src, src+".zst", nil); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "y.slmb")
	err := Unpack(ctx, src+".zst", dst, Options{PublicKey: testKey(t, 2).Public().(ed25519.PublicKey)}, nil)
	if !errors.Is(err, ErrOtherKey) {
		t.Errorf("another key: %v", err)
	}
	if err := Unpack(ctx, src+".zst", dst, Options{PublicKey: key.Public().(ed25519.PublicKey)}, nil); err != nil {
		t.Error(err)
	}
}

// TestUnpackChecks packs a bundle whose weights are damaged: the stream is
// sound, the bundle in it is not.
func TestUnpackChecks(t *testing.T) {
	src, content := writeTiny(t, tinySpec(t, tinyDims))
	content[SectionAlign] ^= 1
	if err := os.WriteFile(src, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Pack(context.Background(), src, src+".zst", nil); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "y.slmb")
	err := Unpack(context.Background(), src+".zst", dst, Options{}, nil)
	if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), `section "weights"`) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file is left: %v", err)
	}
}

func TestPackCancelled(t *testing.T) {
	src, _ := writeTiny(t, tinySpec(t, tinyDims))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Pack(ctx, src, src+".zst", nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := os.Stat(src + ".zst"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file is left: %v", err)
	}
}

// FuzzUnpack feeds any stream, also one whose inside starts with a sound
// header: never a panic, never more bytes than the header claims.
func FuzzUnpack(f *testing.F) {
	content, zst, _ := packed(f, tinySpec(f, tinyDims))
	f.Add(zst)
	f.Add(zst[:len(zst)/2])
	f.Add(compress(f, content[:300]))
	f.Add([]byte("(\xb5/\xfd"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, stream := range [][]byte{in, append(compress(t, content[:HeaderBytes]), in...)} {
			var out counter
			err := unpack(context.Background(), "x", bytes.NewReader(stream), int64(len(stream)), &out, nil)
			if most := max(ratioExempt, maxRatio*int64(len(stream))); int64(out) > most {
				t.Errorf("%d bytes out of %d", out, len(stream))
			}
			if err != nil && !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrVersion) {
				t.Errorf("error %v", err)
			}
		}
	})
}
