package bundle

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// bigSpec has about 70 MB of weights that are noise, written from memory.
func bigSpec(b *testing.B) (Spec, []byte) {
	s := tinySpec(b, dims{D: 512, H: 8, K: 2, E: 64, F: 1408, V: 32000, context: 256, blocks: 16})
	noise := make([]byte, 32<<20)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(noise)
	m := s.Manifest
	stored, _, err := layWeights(&m, s.Formats)
	if err != nil {
		b.Fatal(err)
	}
	s.Weight = func(i int, dst io.Writer) error {
		_, err := dst.Write(noise[:stored[i].Bytes])
		return err
	}
	return s, noise
}

func BenchmarkBundle(b *testing.B) {
	s, _ := bigSpec(b)
	path := filepath.Join(b.TempDir(), "big.slmb")
	if _, err := Write(path, s); err != nil {
		b.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	for _, c := range []struct {
		name string
		run  func() error
	}{
		{"write", func() error { _, err := Write(path, s); return err }},
		{"open", func() error {
			o, err := Open(path, Options{})
			if err != nil {
				return err
			}
			return o.Close()
		}},
		{"check", func() error {
			o, err := Open(path, Options{})
			if err != nil {
				return err
			}
			defer o.Close()
			return o.Check(ctx, nil)
		}},
		{"pack", func() error { return Pack(ctx, path, path+".zst", nil) }},
		{"unpack", func() error { return Unpack(ctx, path+".zst", path+".2", Options{}, nil) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(st.Size())
			b.ReportAllocs()
			for b.Loop() {
				if err := c.run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGuard(b *testing.B) {
	path, _ := writeTiny(b, tinySpec(b, tinyDims))
	o := mustOpen(b, path)
	for b.Loop() {
		_ = o.Guard(func() error { return nil })
	}
}
