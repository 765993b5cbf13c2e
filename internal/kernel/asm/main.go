// Command asm writes the amd64 assembly of package kernel and its Go stubs:
//
//	cd internal/kernel/asm && go run .
//
// Every routine exists for two instruction sets from one description here:
// AVX-512 (F, BW, VL, DQ, VNNI) in 512-bit registers and AVX2 (with FMA and
// F16C) in pairs of 256-bit registers. What a routine computes, to the bit, is
// defined by the scalar function that its doc comment names.
//
// The generator has a module of its own because avo is a tool of developers:
// the files it writes are committed, and main_test.go holds them equal to what
// this code gives.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
)

func main() {
	log.SetFlags(0)
	files, err := generate()
	if err != nil {
		log.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join("..", name), text, 0o666); err != nil {
			log.Fatal(err)
		}
	}
}

// topics are the files of each instruction set.
var topics = []struct {
	name string
	emit func(g *gen)
}{
	{"panelq", (*gen).panelQ},
	{"panelgfni", (*gen).panelGFNI},
	{"panelf", (*gen).panelF},
	{"attention", (*gen).attention},
	{"heads", (*gen).heads},
	{"headtiles", (*gen).headTiles},
	{"vector", (*gen).vector},
	{"quantize", (*gen).quantize},
}

// generate returns the text of every file by its name.
func generate() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, wide := range []bool{true, false} {
		for _, topic := range topics {
			if !wide && (topic.name == "heads" || topic.name == "headtiles" || topic.name == "panelgfni") {
				continue // 16 registers are too few to gain from it
			}
			g := newGen(wide)
			topic.emit(g)
			base := fmt.Sprintf("%s_%s_amd64", topic.name, map[bool]string{true: "avx512", false: "avx2"}[wide])
			f, err := g.Result()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", base, err)
			}
			if err := pass.Compile.Execute(f); err != nil {
				return nil, fmt.Errorf("%s: %w", base, err)
			}
			cfg := printer.Config{Name: "internal/kernel/asm", Pkg: "kernel"}
			if files[base+".s"], err = printer.NewGoAsm(cfg).Print(f); err != nil {
				return nil, fmt.Errorf("%s.s: %w", base, err)
			}
			if files[base+".go"], err = printer.NewStubs(cfg).Print(f); err != nil {
				return nil, fmt.Errorf("%s.go: %w", base, err)
			}
		}
	}
	return files, nil
}
