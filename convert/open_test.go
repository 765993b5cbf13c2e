package convert

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slmc/formats"
	"slmc/model"
)

// testdata returns a path in the repository's testdata.
func testdata(parts ...string) string {
	return filepath.Join(append([]string{"..", "testdata"}, parts...)...)
}

// shared returns a path beside the repository, or skips.
func shared(t testing.TB, parts ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{"..", "..", "shared"}, parts...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("lacks %s, which is not part of the repository", path)
	}
	return path
}

func open(t testing.TB, path string, o Options) *Checkpoint {
	t.Helper()
	c, err := Open(context.Background(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// sameWeights holds every weight of b to a's bits, by name.
func sameWeights(t *testing.T, what string, a, b *model.Model) {
	t.Helper()
	if len(a.Weights) != len(b.Weights) {
		t.Errorf("%s: %d weights, want %d", what, len(b.Weights), len(a.Weights))
	}
	for i, w := range a.Weights {
		k := b.Index(w.Name)
		if k < 0 {
			t.Errorf("%s: lacks %s", what, w.Name)
			continue
		}
		x, err := a.Tensor(i)
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.Tensor(k)
		if err != nil {
			t.Fatal(err)
		}
		for j := range x {
			if math.Float32bits(x[j]) != math.Float32bits(y[j]) {
				t.Errorf("%s: %s differs at element %d: %g, want %g", what, w.Name, j, y[j], x[j])
				break
			}
		}
	}
}

// All forms of assistant-tiny hold the same weights, bit for bit, and the same
// graph up to its context.
func TestForms(t *testing.T) {
	want := open(t, testdata("assistant-tiny"), Options{})
	if want.Form != "safetensors" || want.Model.Parameters() != 408384 || want.Model.Context != 256 || !want.Model.Tied() {
		t.Errorf("assistant-tiny: %s, %d parameters, context %d", want.Form, want.Model.Parameters(), want.Model.Context)
	}
	for _, c := range []struct{ path, form string }{
		{"assistant-tiny/model.safetensors", "safetensors"},
		{"assistant-tiny-pt", "pytorch"},
		{"assistant-tiny-pt/pytorch_model.bin", "pytorch"},
		{"assistant-tiny-legacy", "pytorch"},
		{"assistant-tiny-sharded", "pytorch"},
		{"assistant-tiny-sharded/pytorch_model.bin.index.json", "pytorch"},
		{"assistant-tiny-meta", "meta"},
		{"assistant-tiny-meta/consolidated.00.pth", "meta"},
		{"assistant-tiny-llama2c", "llama2.c trainer"},
		{"assistant-tiny-llama2c/ckpt.pt", "llama2.c trainer"},
		{"assistant-tiny-llama2c/model.bin", "llama2.c"},
		{"assistant-tiny.gguf", "gguf"},
	} {
		got := open(t, testdata(c.path), Options{})
		if got.Form != c.form {
			t.Errorf("%s: form %q, want %q", c.path, got.Form, c.form)
		}
		sameWeights(t, c.path, want.Model, got.Model)
		a, b := want.Model.Clone(), got.Model.Clone()
		if !slices.Equal(a.Blocks, b.Blocks) {
			t.Errorf("%s: blocks %+v, want %+v", c.path, b.Blocks[0], a.Blocks[0])
		}
		if !slices.Equal(a.Ropes[0].InvFreq, b.Ropes[0].InvFreq) || a.NormEps != b.NormEps || a.EmbedScale != b.EmbedScale {
			t.Errorf("%s: rotary frequencies, eps %g or scale %g differ", c.path, b.NormEps, b.EmbedScale)
		}
		for _, f := range got.Files {
			if _, err := os.Stat(f); err != nil {
				t.Errorf("%s: %v", c.path, err)
			}
		}
	}
}

// The forms that only files outside the repository have.
func TestSharedForms(t *testing.T) {
	stories := open(t, shared(t, "models", "stories260K"), Options{})
	bin := open(t, shared(t, "models", "stories260K", "stories260K.bin"), Options{})
	sameWeights(t, "stories260K.bin", stories.Model, bin.Model)
	xs := open(t, shared(t, "models", "llama2xs", "ckpt.pt"), Options{})
	xsBin := open(t, shared(t, "models", "llama2xs", "model.bin"), Options{})
	sameWeights(t, "llama2xs", xs.Model, xsBin.Model)
	small := open(t, shared(t, "models", "assistant-small"), Options{})
	if g := small.Model.Graph; g.Arch != "mobilellm" || g.Parameters() != 2108032 || !g.Tied() {
		t.Errorf("assistant-small: %s, %d parameters", g.Arch, g.Parameters())
	}
	large := open(t, shared(t, "models", "assistant-large"), Options{})
	if g := large.Model.Graph; g.Parameters() != 7902464 || len(large.Files) != 7 {
		t.Errorf("assistant-large: %d parameters, files %v", g.Parameters(), large.Files)
	}
}

func TestTokenizerFiles(t *testing.T) {
	c := open(t, testdata("assistant-tiny"), Options{})
	k := c.Tokenizer
	if filepath.Base(k.JSON) != "tokenizer.json" || filepath.Base(k.Model) != "tokenizer.model" || !strings.Contains(k.Template, "<|assistant|>") {
		t.Errorf("%+v", k)
	}
	if !slices.Equal(k.BOS, []int{1}) || !slices.Equal(k.EOS, []int{5}) {
		t.Errorf("bos %v, eos %v", k.BOS, k.EOS)
	}
	g := open(t, testdata("assistant-tiny.gguf"), Options{})
	if g.Tokenizer.GGUF == nil || !slices.Equal(g.Tokenizer.BOS, []int{1}) || !slices.Contains(g.Tokenizer.EOS, 5) || g.Tokenizer.Template != k.Template {
		t.Errorf("gguf: bos %v, eos %v, template %.40q", g.Tokenizer.BOS, g.Tokenizer.EOS, g.Tokenizer.Template)
	}

	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	find := func() Tokenizer {
		t.Helper()
		k, err := findTokenizer(dir)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write("tokenizer_config.json", `{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}`)
	write("generation_config.json", `{"eos_token_id": [7, 8], "temperature": 0.6}`)
	if k := find(); k.Template != "D" || !slices.Equal(k.EOS, []int{7, 8}) {
		t.Errorf("%+v", k)
	}
	write("chat_template.jinja", "J")
	if k := find(); k.Template != "J" {
		t.Errorf("template %q", k.Template)
	}
	write("generation_config.json", `{"eos_token_id": "x"}`)
	if _, err := findTokenizer(dir); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

// "org/name" finds the snapshot of the Hub's cache, made of symbolic links.
func TestHubCache(t *testing.T) {
	home := t.TempDir()
	repo := filepath.Join(home, "hub", "models--acme--tiny")
	snap := filepath.Join(repo, "snapshots", "0123abcd")
	for _, d := range []string{snap, filepath.Join(repo, "refs"), filepath.Join(repo, "blobs")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} {
		b, err := os.ReadFile(testdata("assistant-tiny", name))
		if err != nil {
			t.Fatal(err)
		}
		blob := "blob" + string(rune('0'+i))
		if err := os.WriteFile(filepath.Join(repo, "blobs", blob), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join("..", "..", "blobs", blob), filepath.Join(snap, name)); err != nil {
			t.Fatal(err)
		}
	}
	main := filepath.Join(repo, "refs", "main")
	if err := os.WriteFile(main, []byte("0123abcd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := open(t, "acme/tiny", Options{HFHome: home})
	sameWeights(t, "acme/tiny", open(t, testdata("assistant-tiny"), Options{}).Model, got.Model)
	if _, err := Open(context.Background(), "acme/other", Options{HFHome: home}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a model that is not there: %v", err)
	}
	if _, err := Open(context.Background(), "acme/tiny", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a cache: %v", err)
	}
	if err := os.WriteFile(main, []byte("../../../etc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), "acme/tiny", Options{HFHome: home}); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("a revision outside the cache: %v", err)
	}
	if err := os.Remove(main); err != nil {
		t.Fatal(err)
	}
	open(t, "acme/tiny", Options{HFHome: home})
	if err := os.Mkdir(filepath.Join(repo, "snapshots", "4567"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), "acme/tiny", Options{HFHome: home}); err == nil || !strings.Contains(err.Error(), "2 snapshots") {
		t.Errorf("no ref and two snapshots: %v", err)
	}
}

// A folder with llama2.c's export alone.
func TestLlama2cFolder(t *testing.T) {
	dir := t.TempDir()
	b, err := os.ReadFile(testdata("assistant-tiny-llama2c", "model.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "model.bin"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if c := open(t, dir, Options{}); c.Form != "llama2.c" || c.Tokenizer.Model != "" {
		t.Errorf("form %q, tokenizer %+v", c.Form, c.Tokenizer)
	}
}

func TestDigests(t *testing.T) {
	c := open(t, testdata("assistant-tiny"), Options{})
	d, err := c.Digests(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"config.json": "", "model.safetensors": "", "tokenizer.json": "", "tokenizer.model": "", "tokenizer_config.json": ""}
	if len(d) != len(want) {
		t.Errorf("%d files, want %d", len(d), len(want))
	}
	for _, f := range d {
		if _, ok := want[f.Name]; !ok || len(f.SHA256) != 64 || f.Bytes == 0 {
			t.Errorf("%+v", f)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Digests(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// An absent form is refused with the list of what is known.
func TestNoForm(t *testing.T) {
	for _, path := range []string{t.TempDir(), testdata("assistant-tiny", "tokenizer.json")} {
		_, err := Open(context.Background(), path, Options{})
		if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "config.json with model.safetensors") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if len(Forms()) != 6 {
		t.Errorf("forms %v", Forms())
	}
}
