package tokenizer

import (
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkEncode(b *testing.B) {
	for _, name := range append([]string{"assistant"}, big...) {
		b.Run(name, func(b *testing.B) {
			tok := loadNamed(b, name)
			paths, _ := filepath.Glob(filepath.Join(sharedDir, "data/text/*.txt"))
			if len(paths) == 0 {
				b.Skip("lacks shared/data/text/*.txt")
			}
			for _, p := range paths {
				text, err := os.ReadFile(p)
				if err != nil {
					b.Fatal(err)
				}
				b.Run(filepath.Base(p), func(b *testing.B) {
					b.SetBytes(int64(len(text)))
					for b.Loop() {
						if _, err := tok.Encode(string(text), true); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, name := range append([]string{"assistant"}, big...) {
		b.Run(name, func(b *testing.B) {
			data := loadNamed(b, name).Marshal()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := Unmarshal(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
