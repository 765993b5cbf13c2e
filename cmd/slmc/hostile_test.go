package main

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// usage is what a process took.
type usage struct {
	Code   int
	CPU    time.Duration
	RSS    int64 // peak, bytes
	Stderr string
}

// measure is a program of its own, named in TestMain: it runs its arguments
// and prints their usage. The peak that Linux reports for a process counts that
// of the one that started it, and the test's own is large.
func measure() {
	var stderr bytes.Buffer
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stderr = &stderr
	timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	err := cmd.Run()
	timer.Stop()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	u := usage{Code: cmd.ProcessState.ExitCode(), CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), Stderr: stderr.String()}
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.RSS = int64(r.Maxrss) << 10
	}
	if err := json.NewEncoder(os.Stdout).Encode(u); err != nil {
		os.Exit(1)
	}
}

func measured(t *testing.T, args ...string) usage {
	t.Helper()
	out, err := exec.Command("measure", append([]string{program(t, "slmc")}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var u usage
	if err := json.Unmarshal(out, &u); err != nil {
		t.Fatal(err)
	}
	return u
}

// hostile is a source that means harm: files by name, and which of them an
// error must name.
type hostile struct {
	name  string
	files map[string][]byte
	names string
	open  string           // the source; "" for the folder
	sizes map[string]int64 // files that are longer than their content, with holes
}

func le64(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// safetensorsFile is a file with this header, whatever it says, and 64 bytes.
func safetensorsFile(header string) []byte {
	return append(append(le64(uint64(len(header))), header...), make([]byte, 64)...)
}

// torchZip is a torch checkpoint: entries by name.
func torchZip(entries ...string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		w, err := z.CreateHeader(&zip.FileHeader{Name: entries[i], Method: zip.Store})
		if err == nil {
			_, err = w.Write([]byte(entries[i+1]))
		}
		if err != nil {
			panic(err)
		}
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// ggufHead is a GGUF file that claims these counts.
func ggufHead(tensors, pairs uint64, rest ...[]byte) []byte {
	b := append([]byte("GGUF"), 3, 0, 0, 0)
	b = append(append(b, le64(tensors)...), le64(pairs)...)
	return append(b, bytes.Join(rest, nil)...)
}

func ggufString(s string) []byte { return append(le64(uint64(len(s))), s...) }

func hostiles(t *testing.T) []hostile {
	config := read(t, repo+"/testdata/assistant-tiny/config.json")
	weights := read(t, repo+"/testdata/assistant-tiny/model.safetensors")
	hf := func(name string, file string, data []byte) hostile {
		return hostile{name: name, names: file, files: map[string][]byte{"config.json": config, "model.safetensors": weights, file: data}}
	}
	torch := func(name string, data []byte) hostile {
		return hostile{name: name, names: "pytorch_model.bin", files: map[string][]byte{"config.json": config, "pytorch_model.bin": data}}
	}
	lone := func(name, file string, data []byte) hostile {
		return hostile{name: name, names: file, open: file, files: map[string][]byte{file: data}}
	}
	index := func(name, entry string) hostile {
		text, err := json.Marshal(map[string]any{"weight_map": map[string]string{"model.embed_tokens.weight": entry}})
		if err != nil {
			t.Fatal(err)
		}
		h := hf(name, "model.safetensors.index.json", text)
		delete(h.files, "model.safetensors")
		return h
	}
	bomb := "\x80\x04\x8e" + string(le64(64<<30)) + "x."
	system := "cposix\nsystem\n(S'touch pwned'\ntR."
	eval := "\x80\x02c__builtin__\neval\nX\x0f\x00\x00\x00open('pwned','w')\x85R."
	pkl := func(p string) []byte {
		return torchZip("archive/data.pkl", p, "archive/version", "3\n", "archive/data/0", strings.Repeat("\x00", 64))
	}
	deep := strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000)
	var alignment bytes.Buffer
	alignment.Write(ggufString("general.alignment"))
	alignment.Write([]byte{4, 0, 0, 0, 0, 0, 0, 0})
	list := []hostile{
		torch("pickle bomb of 64 GiB, legacy", []byte(bomb)),
		torch("pickle bomb of 64 GiB, zip", pkl(bomb)),
		torch("os.system, legacy", []byte(system)),
		torch("os.system, zip", pkl(system)),
		torch("eval, zip", pkl(eval)),
		lone("eval in ckpt.pt", "ckpt.pt", pkl(eval)),
		torch("zip path traversal", torchZip("archive/data.pkl", "\x80\x02}.", "../../../pwned", "x", "archive/data/../../../../pwned", "x")),
		torch("zip with an absolute path", torchZip("/archive/data.pkl", "\x80\x02}.", "/pwned", "x")),
		torch("zip cut short", pkl(eval)[:100]),
		torch("no pickle at all", []byte("no pickle at all")),
		hf("safetensors: overlapping tensors", "model.safetensors", safetensorsFile(`{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"b":{"dtype":"F32","shape":[8],"data_offsets":[16,48]}}`)),
		hf("safetensors: offsets beyond 64 bits", "model.safetensors", safetensorsFile(`{"a":{"dtype":"F32","shape":[8],"data_offsets":[18446744073709551600,18446744073709551632]}}`)),
		hf("safetensors: offsets beyond the file", "model.safetensors", safetensorsFile(`{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}`)),
		hf("safetensors: shape that overflows", "model.safetensors", safetensorsFile(`{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,64]}}`)),
		hf("safetensors: header of 2^60 bytes", "model.safetensors", append(le64(1<<60), "{}"...)),
		hf("safetensors: nested header", "model.safetensors", safetensorsFile(deep)),
		hf("safetensors: no such tensors", "model.safetensors", safetensorsFile(`{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}`)),
		hf("config nested 10,000 deep", "config.json", []byte(deep)),
		hf("config over 16 MiB", "config.json", append(bytes.Repeat([]byte(" "), 16<<20), config...)),
		hf("config with 2^40 layers", "config.json", bytes.Replace(config, []byte(`"num_hidden_layers": 6`), []byte(`"num_hidden_layers": 1099511627776`), 1)),
		hf("config with a hidden size of 2^40", "config.json", bytes.Replace(config, []byte(`"hidden_size": 64`), []byte(`"hidden_size": 1099511627776`), 1)),
		hf("config with 2^31 positions", "config.json", bytes.Replace(config, []byte(`"max_position_embeddings": 256`), []byte(`"max_position_embeddings": 1e300`), 1)),
		hf("tokenizer nested 10,000 deep", "tokenizer.json", []byte(deep)),
		hf("tokenizer.model of garbage", "tokenizer.model", []byte(strings.Repeat("\x0a\xff\xff\xff\xff\x0f", 100))),
		index("shard beside the folder", "../model.safetensors"),
		index("shard of an absolute path", "/etc/passwd"),
		index("shard behind a backslash", `..\model.safetensors`),
		index("shard without a name", ""),
		index("shard that is the folder", "."),
		lone("GGUF with 2^60 tensors", "x.gguf", ggufHead(1<<60, 0)),
		lone("GGUF with 2^60 keys", "x.gguf", ggufHead(0, 1<<60)),
		lone("GGUF with a key of 2^60 bytes", "x.gguf", ggufHead(0, 1, le64(1<<60), []byte("key"))),
		lone("GGUF with an array of 2^60", "x.gguf", ggufHead(0, 1, ggufString("tokenizer.ggml.tokens"), []byte{9, 0, 0, 0, 8, 0, 0, 0}, le64(1<<60))),
		lone("GGUF with arrays in arrays", "x.gguf", ggufHead(0, 1, ggufString("a"), bytes.Repeat(append([]byte{9, 0, 0, 0}, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0), 1000))),
		lone("GGUF aligned to 0", "x.gguf", ggufHead(0, 1, alignment.Bytes())),
		lone("GGUF of nothing", "x.gguf", []byte("GGUF")),
		lone("llama2.c with huge dimensions", "x.bin", bytes.Repeat([]byte{0xff, 0xff, 0xff, 0x7f}, 7)),
		lone("llama2.c of nothing", "x.bin", nil),
		lone("bundle of nothing", "x.slmb", nil),
		lone("bundle of a header alone", "x.slmb", assistantBundle(t)[:256]),
		lone("unknown", "x.xyz", []byte("what is this")),
	}
	huge := hf("safetensors: header over 100 MB", "model.safetensors", append(le64(150<<20), `{"a":`...))
	huge.sizes = map[string]int64{"model.safetensors": 200 << 20}
	holes := lone("GGUF of a terabyte of nothing", "x.gguf", ggufHead(1<<30, 1<<30))
	holes.sizes = map[string]int64{"x.gguf": 1 << 40}
	zeros := lone("llama2.c of a terabyte of nothing", "x.bin", nil)
	zeros.sizes = map[string]int64{"x.bin": 1 << 40}
	blank := torch("torch checkpoint of a terabyte of nothing", nil)
	blank.sizes = map[string]int64{"pytorch_model.bin": 1 << 40}
	vast := hf("tokenizer of 300 MB", "tokenizer.json", []byte("{"))
	vast.sizes = map[string]int64{"tokenizer.json": 300 << 20}
	return append(list, huge, holes, zeros, blank, vast)
}

// What means harm ends with exit code 3 or 4, soon, in little memory, with a
// message that names the file, and does nothing.
func TestHostileSources(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("peak memory of a process is measured as Linux reports it")
	}
	var most usage
	for _, h := range hostiles(t) {
		t.Run(h.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "source")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for name, data := range h.files {
				path := filepath.Join(dir, name)
				err := os.WriteFile(path, data, 0o600)
				if size := h.sizes[name]; err == nil && size > 0 {
					err = os.Truncate(path, size)
				}
				if err != nil {
					t.Skipf("this disk does not take the file: %v", err)
				}
			}
			work := t.TempDir()
			source := filepath.Join(dir, h.open)
			for _, args := range [][]string{
				{"inspect", source},
				{"build", source, "-o", filepath.Join(work, "out.slmb"), "--cache", filepath.Join(work, "cache")},
			} {
				u := measured(t, args...)
				switch {
				case u.Code != exitUnsupported && u.Code != exitIntegrity:
					t.Errorf("%s: exit %d, wanted 3 or 4: %s", args[0], u.Code, u.Stderr)
				case !strings.Contains(u.Stderr, h.names) || strings.Count(u.Stderr, "\n") != 1 || len(u.Stderr) > 1000:
					t.Errorf("%s: the message does not name %s in one line: %.1000s", args[0], h.names, u.Stderr)
				}
				if u.CPU > time.Second || u.RSS > 100<<20 {
					t.Errorf("%s: %v of CPU time and %d MB", args[0], u.CPU, u.RSS>>20)
				}
				most.CPU, most.RSS = max(most.CPU, u.CPU), max(most.RSS, u.RSS)
			}
			for _, d := range []string{work, dir, filepath.Dir(dir), "."} {
				for _, bad := range []string{"pwned", "out.slmb"} {
					if _, err := os.Lstat(filepath.Join(d, bad)); err == nil {
						t.Errorf("there is a file %s in %s", bad, d)
					}
				}
			}
		})
	}
	t.Logf("at most %v of CPU time and %d MB", most.CPU, most.RSS>>20)
}
