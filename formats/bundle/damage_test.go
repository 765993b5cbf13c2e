package bundle

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"slmc/formats"
)

// damageSpec has sections of more than one page and of more than one leaf.
func damageSpec(t testing.TB) Spec {
	s := tinySpec(t, dims{D: 64, H: 2, K: 1, E: 32, F: 176, V: 4200, context: 40, blocks: 2})
	noise := make([]byte, LeafBytes+5000)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	s.Sections[0].Bytes = noise
	return s
}

// TestFlipsInHeaderAndManifest flips a bit of every byte, in the header every
// bit, with and without a signature: Open itself must see it.
func TestFlipsInHeaderAndManifest(t *testing.T) {
	path, plain := writeTiny(t, tinySpec(t, tinyDims))
	if err := Sign(path, ed25519.NewKeyFromSeed(make([]byte, 32))); err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, content := range [][]byte{plain, signed} {
		b, err := parse("x", bytes.NewReader(content), int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		flip := func(at, bit int) {
			content[at] ^= 1 << bit
			defer func() { content[at] ^= 1 << bit }()
			_, err := parse("x", bytes.NewReader(content), int64(len(content)))
			if !errors.Is(err, formats.ErrCorrupt) {
				t.Errorf("bit %d of byte %d: %v", bit, at, err)
			}
			if part := map[bool]string{true: "header", false: "manifest"}[at < HeaderBytes]; err != nil && !strings.Contains(err.Error(), part) {
				t.Errorf("bit %d of byte %d: %v does not name the %s", bit, at, err, part)
			}
		}
		for at := range HeaderBytes {
			for bit := range 8 {
				flip(at, bit)
			}
		}
		for at := int(b.header.manifestAt); at < len(content); at++ {
			flip(at, rng.IntN(8))
		}
	}
}

// TestFlipsElsewhere flips one random bit in every 4 KiB of the sections and of
// the padding: Check must name the place.
func TestFlipsElsewhere(t *testing.T) {
	path, content := writeTiny(t, damageSpec(t))
	m := mustOpen(t, path).Manifest()
	end := int(mustOpen(t, path).header.manifestAt)
	rng := rand.New(rand.NewPCG(5, 6))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for page := 0; page < end; page += 4096 {
		at := page + rng.IntN(4096)
		if page == 0 {
			at = HeaderBytes + rng.IntN(4096-HeaderBytes)
		}
		write(t, f, at, content[at]^1<<rng.IntN(8))
		b, err := Open(path, Options{})
		if err != nil {
			t.Fatalf("byte %d: Open: %v", at, err)
		}
		err = errors.Join(b.Check(context.Background(), nil), b.Close())
		if want := placeName(m, int64(at)); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("byte %d: %v, wanted an error that names %s", at, err, want)
		}
		write(t, f, at, content[at])
	}
	if err := mustOpen(t, path).Check(context.Background(), nil); err != nil {
		t.Errorf("the mended file: %v", err)
	}
}

func write(t *testing.T, f *os.File, at int, c byte) {
	t.Helper()
	if _, err := f.WriteAt([]byte{c}, int64(at)); err != nil {
		t.Fatal(err)
	}
}

// placeName says what a byte belongs to.
func placeName(m *Manifest, at int64) string {
	name := "padding after the header"
	for _, s := range m.Sections {
		if at >= s.Offset {
			name = fmt.Sprintf("section %q", s.Name)
			if at >= s.Offset+s.Length {
				name = "padding after " + name
			}
		}
	}
	return name
}

// TestTruncated cuts the file at every byte of header and manifest and at every
// 1 KiB: a clear error within 2 x the file of memory.
func TestTruncated(t *testing.T) {
	path, content := writeTiny(t, damageSpec(t))
	b := mustOpen(t, path)
	manifestAt := int(b.header.manifestAt)
	if err := b.Close(); err != nil { // a file that is mapped cannot be cut everywhere
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	for n := len(content) - 1; n >= 0; n-- {
		if n > HeaderBytes && n < manifestAt && n%1024 != 0 {
			continue
		}
		if err := os.Truncate(path, int64(n)); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&before)
		b, err := Open(path, Options{})
		if err == nil {
			t.Fatalf("cut to %d bytes: no error", n)
		}
		runtime.ReadMemStats(&after)
		// Some kilobytes are the path and the error.
		if used, most := after.TotalAlloc-before.TotalAlloc, uint64(2*n+16<<10); used > most {
			t.Errorf("cut to %d bytes: %d bytes allocated, wanted at most %d", n, used, most)
		}
		if b != nil || !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "tiny.slmb") {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

// TestLonger appends to the file.
func TestLonger(t *testing.T) {
	path, content := writeTiny(t, tinySpec(t, tinyDims))
	if err := os.WriteFile(path, append(content, 0), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

func TestOpenOther(t *testing.T) {
	if _, err := Open(t.TempDir(), Options{}); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := Open("no such file", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	if err := Unpack(t.Context(), t.TempDir(), "out.slmb", Options{}, nil); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("unpacking a folder: %v", err)
	}
}

// TestCutWhileMapped cuts the file under the mapping and reads on, from two
// goroutines: an error that names the byte, not a signal.
func TestCutWhileMapped(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not let a mapped file be cut")
	}
	path, _ := writeTiny(t, damageSpec(t))
	b := mustOpen(t, path)
	if err := b.Guard(func() error { touch(b); return nil }); err != nil {
		t.Fatal(err)
	}
	s := b.Manifest().Section(SectionTokenizer)
	cut := align(s.Offset+1, 64<<10) // beyond a page of any machine
	if err := os.Truncate(path, cut); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for range 2 {
		go func() { errs <- b.Guard(func() error { touch(b); return nil }) }()
	}
	for range 2 {
		err := <-errs
		var e *formats.Error
		if !errors.As(err, &e) || !errors.Is(err, formats.ErrCorrupt) {
			t.Fatalf("error %v", err)
		}
		// An emulator may not know the byte; amd64 machines do.
		unknown := runtime.GOARCH != "amd64" && e.Offset == -1
		if e.File != "tiny.slmb" || !unknown && (e.Offset < cut || e.Offset >= b.Size()) {
			t.Errorf("error %v: wanted a byte from %d to %d", err, cut, b.Size())
		}
	}
	if err := b.Check(context.Background(), nil); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("Check: %v", err)
	}
	if _, err := b.Golden(); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("Golden: %v", err)
	}
}

// touch reads every byte of every section.
func touch(b *Bundle) {
	sum := byte(0)
	for _, s := range b.Manifest().Sections {
		for _, c := range b.Section(s.Name) {
			sum ^= c
		}
	}
	runtime.KeepAlive(sum)
}

// TestGuardPassesOn holds Guard to the faults of the mapping.
func TestGuardPassesOn(t *testing.T) {
	path, _ := writeTiny(t, tinySpec(t, tinyDims))
	b := mustOpen(t, path)
	boom := errors.New("boom")
	if err := b.Guard(func() error { return boom }); err != boom {
		t.Errorf("error %v", err)
	}
	for name, f := range map[string]func(){
		"panic":       func() { panic(boom) },
		"nil pointer": func() { var p *Bundle; _ = p.size },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_ = b.Guard(func() error { f(); return nil })
		})
	}
}
