// Command gguf makes the GGUF files and the golden block conversions of the
// repository, deterministically. Run from the module's root:
//
//	go run ./testdata/gen/gguf tiny     testdata/assistant-tiny.gguf from testdata/assistant-tiny
//	go run ./testdata/gen/gguf blocks   formats/gguf/testdata/blocks.txt, needs bench/peer/install.sh first
//
// and, for comparisons that are not checked in:
//
//	go run ./testdata/gen/gguf hf FOLDER OUT.gguf F32|F16|BF16|Q8_0|Q4_0   any llama folder with a tokenizer.model
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"slmc/bench/peer"
	"slmc/formats/gguf"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gguf:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "tiny":
		return convert(ctx, "testdata/assistant-tiny", "testdata/assistant-tiny.gguf", gguf.F16)
	case len(args) == 1 && args[0] == "blocks":
		oracle, err := peer.Find("")
		if err != nil {
			return err
		}
		return blocks(ctx, oracle, "formats/gguf/testdata/blocks.txt")
	case len(args) == 4 && args[0] == "hf":
		t, err := gguf.TypeByName(args[3])
		if err != nil {
			return err
		}
		return convert(ctx, args[1], args[2], t)
	}
	return fmt.Errorf("usage: gguf tiny | blocks | hf FOLDER OUT.gguf TYPE")
}

// writeFile writes beside path and renames, so that no half file stays.
func writeFile(path string, write func(f *os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".gguf-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
