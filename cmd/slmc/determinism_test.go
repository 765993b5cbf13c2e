package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slmc/formats/bundle"
	"slmc/internal/kernel"
)

// ok runs slmc in this process and wants success.
func ok(t testing.TB, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(append([]string{"slmc"}, args...), strings.NewReader(""), &stdout, &stderr); code != 0 {
		t.Fatalf("slmc %s: exit %d: %s", strings.Join(args, " "), code, &stderr)
	}
	return stdout.String()
}

// code runs slmc in this process and returns its exit code and what it said.
func code(args ...string) (int, string) {
	var stderr bytes.Buffer
	n := run(append([]string{"slmc"}, args...), strings.NewReader(""), io.Discard, &stderr)
	return n, stderr.String()
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Neither threads nor kernels nor the cache nor where the source lies changes
// a byte of a bundle.
func TestBuildIsDeterministic(t *testing.T) {
	want := assistantBundle(t)
	dir := t.TempDir()
	elsewhere := filepath.Join(dir, "another", "place")
	if err := os.CopyFS(elsewhere, os.DirFS(repo+"/testdata/assistant-tiny")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	type variant struct {
		name, source string
		args         []string
	}
	source := repo + "/testdata/assistant-tiny"
	variants := []variant{
		{"1 thread", source, []string{"--threads", "1"}},
		{"2 threads", source, []string{"--threads", "2"}},
		{"5 threads", source, []string{"--threads", "5"}},
		{"another path", elsewhere, nil},
		{"a link", link, nil},
		{"the file itself", source + "/model.safetensors", nil},
	}
	for _, k := range kernel.Impls() {
		if k.OK {
			variants = append(variants, variant{"kernel " + k.Name, source, []string{"--kernel", k.Name}})
		}
	}
	for i, v := range variants {
		out := filepath.Join(dir, "made.slmb")
		cache := filepath.Join(dir, fmt.Sprint("cache", i))
		args := append([]string{"build", v.source, "-o", out, "--cache", cache}, v.args...)
		for n, from := range []string{"made", "from the cache"} {
			if n > 0 && i > 1 {
				break // as the others
			}
			ok(t, args...)
			if !bytes.Equal(read(t, out), want) {
				t.Errorf("%s, %s: other bytes", v.name, from)
			}
		}
	}
	// The stages take what others with the same key made, and not more.
	got := ok(t, "build", source, "-o", filepath.Join(dir, "s.slmb"), "--cache", filepath.Join(dir, "cache0"), "--seed", "2", "--json")
	if !strings.Contains(got, `"cached":["pack"]`) {
		t.Errorf("another seed took more or less than the packed weights from the cache: %s", got)
	}
	got = ok(t, "build", source, "-o", filepath.Join(dir, "s.slmb"), "--cache", filepath.Join(dir, "cache0"), "--weights", "w4", "--json")
	if !strings.Contains(got, `"cached":[]`) {
		t.Errorf("other weights took something from the cache: %s", got)
	}
}

// The same numbers give the same packed weights, whatever file held them.
func TestSourcesGiveTheSameWeights(t *testing.T) {
	dir := t.TempDir()
	sections := func(source string, args ...string) map[string]bundle.Digest {
		t.Helper()
		out := filepath.Join(dir, "made.slmb")
		ok(t, append([]string{"quantize", filepath.Join(repo, "testdata", source), "-o", out}, args...)...)
		b, err := bundle.Open(out, bundle.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		got := map[string]bundle.Digest{}
		for _, s := range b.Manifest().Sections {
			got[s.Name] = s.Root
		}
		return got
	}
	for _, weights := range []string{"w8", "f16"} {
		want := sections("assistant-tiny", "--weights", weights)
		for _, source := range []string{
			"assistant-tiny-pt", "assistant-tiny-sharded", "assistant-tiny-legacy", "assistant-tiny-meta",
			"assistant-tiny-llama2c/ckpt.pt", "assistant-tiny-llama2c/model.bin", "assistant-tiny.gguf",
		} {
			got := sections(source, "--weights", weights, "--context", "256")
			// Files that do not name it leave the base of the rotary
			// frequencies at the value that this model has.
			for _, name := range []string{bundle.SectionWeights, bundle.SectionRope} {
				if got[name] != want[name] {
					t.Errorf("%s as %s: section %q is not that of the safetensors folder", source, weights, name)
				}
			}
		}
	}
}
