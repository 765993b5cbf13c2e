package formats

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func readIndex(s string) (map[string]string, error) {
	return ReadIndex("i.json", strings.NewReader(s), int64(len(s)))
}

func TestReadIndex(t *testing.T) {
	m, err := readIndex(`{"metadata":{"total_size":4,"x":[1,{"y":null}]},"weight_map":{"a":"m-1.bin","b":"m-2.bin"}}` + "\n")
	if err != nil || len(m) != 2 || m["a"] != "m-1.bin" || m["b"] != "m-2.bin" {
		t.Fatalf("%v, %v", m, err)
	}
	entry := func(file string) string { return fmt.Sprintf(`{"weight_map":{"a":%q}}`, file) }
	for name, c := range map[string]struct{ in, want string }{
		"parent":           {entry("../x.safetensors"), "plain file name"},
		"inner parent":     {entry("a/../../x"), "plain file name"},
		"absolute":         {entry("/etc/passwd"), "plain file name"},
		"folder":           {entry("sub/x.safetensors"), "plain file name"},
		"backslash":        {entry(`..\x`), "plain file name"},
		"drive":            {entry("C:x"), "plain file name"},
		"dot":              {entry("."), "plain file name"},
		"dot dot":          {entry(".."), "plain file name"},
		"empty":            {entry(""), "plain file name"},
		"NUL":              {`{"weight_map":{"a":"x\u0000y"}}`, "plain file name"},
		"number":           {`{"weight_map":{"a":1}}`, "wanted a string"},
		"duplicate":        {`{"weight_map":{"a":"x","a":"y"}}`, `"a" appears twice`},
		"two maps":         {`{"weight_map":{"a":"x"},"weight_map":{"b":"y"}}`, "appears twice"},
		"no map":           {`{"metadata":{}}`, "no weight_map"},
		"empty map":        {`{"weight_map":{}}`, "no weight_map"},
		"deep":             {`{"metadata":` + strings.Repeat("[", 10000), "nested deeper"},
		"deep objects":     {`{"metadata":` + strings.Repeat(`{"a":`, 10000), "nested deeper"},
		"nested duplicate": {`{"metadata":{"a":{"b":1,"b":2}}}`, "appears twice"},
		"cut":              {`{"weight_map":{"a":"x"`, "unexpected EOF"},
		"trailing":         {`{"weight_map":{"a":"x"}}]`, "invalid"},
		"array":            {`[]`, "wanted an object"},
		"nothing":          {``, "unexpected EOF"},
		"16 MiB":           {strings.Repeat(" ", 16<<20+1), "at most"},
	} {
		if _, err := readIndex(c.in); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "i.json") {
			t.Errorf("%s: %v, wanted corrupt and %q", name, err, c.want)
		}
	}
}

// fake is a shard whose tensors are the words of its file.
type fake struct{ tensors []TensorInfo }

func (f fake) Tensors() []TensorInfo                { return f.tensors }
func (f fake) ReadF32(string, int, []float32) error { return nil }
func (f fake) Close() error                         { return nil }

func TestShardsMustAgree(t *testing.T) {
	dir := t.TempDir()
	for file, words := range map[string]string{"1": "a b", "2": "c", "3": "c d", "4": ""} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(words), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := func(path string) (Source, error) {
		b, err := os.ReadFile(path)
		var f fake
		for _, w := range strings.Fields(string(b)) {
			f.tensors = append(f.tensors, TensorInfo{Name: w, File: filepath.Base(path)})
		}
		return f, err
	}
	try := func(weights string) (*Sharded, error) {
		path := filepath.Join(dir, "index.json")
		if err := os.WriteFile(path, []byte(`{"weight_map":{`+weights+`}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		return OpenIndex(path, open)
	}
	s, err := try(`"c":"2","b":"1","a":"1"`)
	if err != nil || len(s.Tensors()) != 3 || s.Tensors()[0].Name != "a" || s.Tensors()[2].Name != "c" {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := s.ReadF32("a", 0, nil); err != nil {
		t.Error(err)
	}
	if err := s.ReadF32("zz", 0, nil); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "zz") {
		t.Errorf("unknown tensor: %v", err)
	}
	for weights, want := range map[string]string{
		`"a":"1"`:                         `tensor "b": corrupt: 1 holds it, but weight_map does not name it`,
		`"a":"1","b":"1","x":"2","c":"2"`: `tensor "x": corrupt: weight_map places it in 2, which does not hold it`,
		`"c":"2","d":"3"`:                 `tensor "c": corrupt: 3 holds it, but weight_map places it in 2`,
		`"a":"4"`:                         `tensor "a": corrupt: weight_map places it in 4`,
	} {
		if _, err := try(weights); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, wanted %q", weights, err, want)
		}
	}
	if _, err := try(`"a":"absent"`); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing shard: %v", err)
	}
}

func TestOpenFileRefusesFolders(t *testing.T) {
	if _, err := OpenFile(t.TempDir()); !errors.Is(err, ErrUnsupported) {
		t.Errorf("%v, wanted unsupported", err)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":4},"weight_map":{"a":"m-1.bin","b":"m-2.bin"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../b"}}`))
	f.Add([]byte(`{"x":[[[{"a":1e5,"b":null}]],true],"weight_map":{"\u00e9":"é"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ReadIndex("i.json", bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		for tensor, file := range m {
			if file != filepath.Base(file) || file == ".." || file == "." {
				t.Fatalf("%q placed in %q", tensor, file)
			}
		}
	})
}
