package kernel

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"go/constant"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const (
	wordsHeader = "words_arm64.h"
	wordsGolden = "testdata/words_arm64.txt"
	gnuAs       = "aarch64-linux-gnu-as"
	gnuObjcopy  = "aarch64-linux-gnu-objcopy"
)

var updateWords = flag.Bool("update-words", false, "write "+wordsGolden+" with GNU as")

// instruction is one use of a macro of words_arm64.h.
type instruction struct {
	text string // as the macro's comment says it
	word uint32 // as the macro encodes it
}

// operandSamples are the values that each kind of macro parameter is tried
// with: registers with all five bits in play, indices and shifts at their ends.
var operandSamples = map[string][3]int{
	"d": {31, 1, 22}, "n": {5, 30, 3}, "m": {18, 9, 31}, "x": {0, 7, 30},
	"i": {1, 2, 3}, "k": {1, 4, 7}, "o": {16, 32, 224},
}

var wordMacro = regexp.MustCompile(`^#define (\w+)\(([^)]*)\) WORD \$\((.*)\) // (.+)$`)

// readWords evaluates every macro of the header with each sample.
func readWords(t *testing.T) []instruction {
	t.Helper()
	header, err := os.ReadFile(wordsHeader)
	if err != nil {
		t.Fatal(err)
	}
	var list []instruction
	for i, line := range strings.Split(string(header), "\n") {
		if !strings.HasPrefix(line, "#define") {
			continue
		}
		m := wordMacro.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("%s:%d: not a word with its instruction: %s", wordsHeader, i+1, line)
		}
		for s := range 3 {
			expr, text := m[3], m[4]
			for _, p := range strings.Split(m[2], ", ") {
				v := strconv.Itoa(operandSamples[p][s])
				expr = regexp.MustCompile(`\b`+p+`\b`).ReplaceAllString(expr, v)
				text = strings.ReplaceAll(text, "{"+p+"}", v)
			}
			tv, err := types.Eval(token.NewFileSet(), nil, token.NoPos, expr)
			if err != nil {
				t.Fatalf("%s:%d: %s: %v", wordsHeader, i+1, expr, err)
			}
			w, _ := constant.Uint64Val(tv.Value)
			list = append(list, instruction{text, uint32(w)})
		}
	}
	return list
}

// assemble returns GNU as' words for the texts.
func assemble(t *testing.T, list []instruction) []uint32 {
	t.Helper()
	src := ".arch armv8.2-a+dotprod+i8mm\n"
	for _, in := range list {
		src += in.text + "\n"
	}
	object, raw := filepath.Join(t.TempDir(), "words.o"), filepath.Join(t.TempDir(), "words.bin")
	as := exec.Command(gnuAs, "-o", object, "-")
	as.Stdin = strings.NewReader(src)
	if out, err := as.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", gnuAs, err, out)
	}
	if out, err := exec.Command(gnuObjcopy, "-O", "binary", "-j", ".text", object, raw).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", gnuObjcopy, err, out)
	}
	code, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	words := make([]uint32, len(code)/4)
	if err := binary.Read(bytes.NewReader(code), binary.LittleEndian, words); err != nil {
		t.Fatal(err)
	}
	if len(words) != len(list) {
		t.Fatalf("%s made %d words of %d instructions", gnuAs, len(words), len(list))
	}
	return words
}

// TestWords holds each instruction of words_arm64.h against the golden list
// that GNU as made, and that list against GNU as where it is installed.
func TestWords(t *testing.T) {
	list := readWords(t)
	if *updateWords {
		var b strings.Builder
		for i, w := range assemble(t, list) {
			fmt.Fprintf(&b, "%08x %s\n", w, list[i].text)
		}
		if err := os.WriteFile(wordsGolden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(wordsGolden)
	if err != nil {
		t.Fatal(err)
	}
	golden := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(golden) != len(list) {
		t.Fatalf("%s has %d instructions, %s %d: run with -update-words", wordsGolden, len(golden), wordsHeader, len(list))
	}
	for i, in := range list {
		if got := fmt.Sprintf("%08x %s", in.word, in.text); got != golden[i] {
			t.Errorf("%s says %q, %s %q", wordsHeader, got, wordsGolden, golden[i])
		}
	}
	t.Run("assembler", func(t *testing.T) {
		for _, tool := range []string{gnuAs, gnuObjcopy} {
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("the golden list is not checked again: no %s", tool)
			}
		}
		for i, w := range assemble(t, list) {
			if got := fmt.Sprintf("%08x %s", w, list[i].text); got != golden[i] {
				t.Errorf("%s says %q, %s %q", gnuAs, got, wordsGolden, golden[i])
			}
		}
	})
}
