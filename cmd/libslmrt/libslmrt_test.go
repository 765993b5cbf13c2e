package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"slmc/formats/bundle"
	"slmc/internal/deferral"
	"slmc/internal/pipeline"
	slmrt "slmc/runtime"
)

// files writes a bundle, a damaged copy and one with a router, and returns the
// answer that the Go runtime gives to the question of testdata/app.c.
func files(t *testing.T) (path, broken, routed, answer string) {
	t.Helper()
	dir := t.TempDir()
	path, broken = filepath.Join(dir, "a.slmb"), filepath.Join(dir, "broken.slmb")
	r, err := pipeline.DefaultRecipe("w8", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = pipeline.Build(context.Background(), pipeline.Config{Source: "../../testdata/assistant-tiny", Output: path, Recipe: r, Bare: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(broken, data, 0o600); err != nil {
		t.Fatal(err)
	}
	m, b, err := slmrt.Load(path, slmrt.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ids, err := m.EncodeUser("set a timer for nine minutes", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.NewSession(slmrt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	res, err := s.Generate(context.Background(), slmrt.Request{Prompt: ids}, nil)
	if err != nil {
		t.Fatal(err)
	}
	routed = filepath.Join(dir, "routed.slmb")
	route(t, m, b, routed)
	return path, broken, routed, res.Text
}

// route writes the bundle again with a router whose score is always a half.
func route(t *testing.T, m *slmrt.Model, b *bundle.Bundle, path string) {
	t.Helper()
	curve := deferral.Curve{X: []float32{-9, 9}, Y: []float32{0, 1}}
	r, err := deferral.New(deferral.Parts{
		Shape: slmrt.ShapeOf(m), Weights: [32]byte(b.Manifest().Section(bundle.SectionWeights).Root), Strange: deferral.Strange{CDF: curve},
		Heads: []deferral.Head{{Checkpoint: deferral.Pre, Inputs: []int32{0}, Mean: []float32{0}, Inv: []float32{0},
			W2: make([]float32, deferral.Outputs), B2: make([]float32, deferral.Outputs), Wrong: curve, Gain: curve}},
		Table: deferral.Table{Bound: 0.02, Checkpoint: deferral.Pre, Rows: []deferral.Row{{
			Checkpoint: deferral.Pre, Pre: 0.4, Mid: deferral.Never, Post: deferral.Never, OOD: deferral.Never,
			DeferralRate: 0.5, EarlyRate: 0.5, Quality: 0.9, LargeQuality: 0.9, Loss: 0.005, Bound: 0.015, Delta: 0.05, N: 1000,
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Replace(path, bundle.Data{Name: bundle.SectionRouter, Bytes: text}, bundle.StageReport{Stage: "router", Version: "1", Report: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
}

// compile runs a compiler with cgo on, for the Go toolchain too.
func compile(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=1"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// A C program does all that an app would, with the shared library, the archive,
// and on arm64.
func TestApp(t *testing.T) {
	path, broken, routed, answer := files(t)
	for _, c := range []struct {
		name, mode, library, gcc, arch string
		run                            []string
	}{
		{"c-shared", "c-shared", "libslmrt.so", "gcc", goruntime.GOARCH, nil},
		{"c-archive", "c-archive", "libslmrt.a", "gcc", goruntime.GOARCH, nil},
		{"arm64 c-shared", "c-shared", "libslmrt.so", "aarch64-linux-gnu-gcc", "arm64", []string{"qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, tool := range append([]string{c.gcc}, c.run...)[:min(2, 1+len(c.run))] {
				if _, err := exec.LookPath(tool); err != nil {
					t.Skipf("%s is missing (Debian packages gcc, gcc-aarch64-linux-gnu, qemu-user-static)", tool)
				}
			}
			if _, err := os.Stat("/usr/aarch64-linux-gnu/lib/libc.so.6"); err != nil && c.run != nil {
				t.Skip("/usr/aarch64-linux-gnu has no C library (Debian package libc6-dev-arm64-cross)")
			}
			dir := t.TempDir()
			app := filepath.Join(dir, "app")
			compile(t, []string{"CC=" + c.gcc, "GOOS=linux", "GOARCH=" + c.arch}, "go", "build", "-trimpath", "-ldflags=-s -w", "-buildmode="+c.mode, "-o", filepath.Join(dir, c.library), ".")
			compile(t, nil, c.gcc, "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-I.", "-o", app, "testdata/app.c",
				filepath.Join(dir, c.library), "-lpthread", "-Wl,-rpath,"+dir)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			line := append(append([]string{}, c.run...), app, path, broken, routed, answer)
			var said bytes.Buffer
			cmd := exec.CommandContext(ctx, line[0], line[1:]...)
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %s", err, &said)
			}
			t.Log(strings.TrimSpace(said.String()))
		})
	}
}

// What the library exports is what the header declares, and no more.
func TestHeader(t *testing.T) {
	header, err := os.ReadFile("slmrt.h")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("export.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(source)) {
		if name, ok := strings.CutPrefix(line, "//export "); ok {
			n++
			if !strings.Contains(string(header), strings.TrimSpace(name)+"(") {
				t.Errorf("slmrt.h does not declare %s", name)
			}
		}
	}
	declared := 0
	for line := range strings.Lines(string(header)) {
		if strings.HasSuffix(line, ");\n") && !strings.HasPrefix(line, "typedef") {
			declared++
		}
	}
	if n != declared {
		t.Errorf("%d exports, %d declarations", n, declared)
	}
}
