package phone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/pipeline"
	"slmc/internal/testbundle"
)

const repo = "../.."

// assistant is the bundle of testdata/assistant-tiny, built once.
var assistant = sync.OnceValues(func() ([]byte, error) {
	return testbundle.Assistant(repo, func(r *pipeline.Recipe) { r.Golden = pipeline.Golden{Prompts: 2, PromptTokens: 8, Greedy: 4} })
})

func openAssistant(t *testing.T) (path string, b *bundle.Bundle) {
	t.Helper()
	data, err := assistant()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "assistant.slmb")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err = bundle.Open(path, bundle.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return path, b
}

// build makes the static slmrt that goes to an arm64 phone. overlay replaces
// source files.
func build(t *testing.T, overlay map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "slmrt-linux-arm64")
	args := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", path}
	if overlay != nil {
		text, err := json.Marshal(map[string]any{"Replace": overlay})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "overlay.json")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-overlay", file)
	}
	cmd := exec.Command("go", append(args, "slmc/cmd/slmrt")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// device sets up the stand-in transport and returns a folder on the "device".
func device(t *testing.T) (dir string, o Options) {
	t.Helper()
	adb, err := filepath.Abs("testdata/adb")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PHONE_DEVICES", `emulated-1\tdevice`)
	t.Setenv("PHONE_BIN", filepath.Join(filepath.Dir(adb), "bin"))
	t.Setenv("PHONE_RUN", "")
	t.Setenv("PHONE_FAIL", "")
	t.Setenv("PHONE_STATE", filepath.Join(t.TempDir(), "battery"))
	dir = filepath.Join(t.TempDir(), "local", "slmc")
	return dir, Options{ADB: adb, Dir: dir}
}

// emulated is a device of another architecture.
func emulated(t *testing.T) (string, Options) {
	t.Helper()
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Skip("qemu-aarch64-static is missing (Debian package qemu-user-static): nothing here runs arm64 programs")
	}
	dir, o := device(t)
	t.Setenv("PHONE_RUN", qemu)
	return dir, o
}

func connect(t *testing.T, o Options) *Phone {
	t.Helper()
	p, err := Connect(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func push(t *testing.T, p *Phone, file, name string) Pushed {
	t.Helper()
	done, err := p.Push(context.Background(), file, name, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// The whole way on an arm64 "phone": push, verify, bench, report.
func TestPhone(t *testing.T) {
	_, o := emulated(t)
	path, b := openAssistant(t)
	p := connect(t, o)
	if p.Info.Name() != "QEMU Emulated Phone" || p.Info.ABI != "arm64-v8a" || p.Info.Cores < 1 || p.Info.MemoryBytes < 1<<20 {
		t.Errorf("the device is %+v", p.Info)
	}
	slmrt := build(t, nil)
	if err := p.CheckRuntime(slmrt); err != nil {
		t.Error(err)
	}
	if err := p.CheckRuntime(path); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("a bundle as a program: %v", err)
	}
	push(t, p, slmrt, Runtime)
	if again := push(t, p, slmrt, Runtime); !again.Already {
		t.Error("what is there was pushed again")
	}
	push(t, p, path, "a.slmb")
	subject, err := Describe(b)
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Verify(context.Background(), b, "a.slmb", "--threads", "1")
	if err != nil || !v.OK || v.LogitsDigest != subject.LogitsDigest || v.Digest != subject.Digest {
		t.Fatalf("%+v, %v; wanted logits %s", v, err, subject.LogitsDigest)
	}
	bench, err := p.Bench(context.Background(), "a.slmb", 1, "--prompt-tokens", "8", "--decode-tokens", "4", "--threads", "1")
	if err != nil {
		t.Fatal(err)
	}
	if bench.PromptTokens != 8 || bench.DecodeTokS <= 0 || bench.PeakRSS <= 0 || bench.Predicted < subject.Bytes || !strings.HasPrefix(bench.Kernel, "neon") {
		t.Errorf("bench: %+v", bench)
	}
	// 20 mAh at 4 V.
	if d := bench.Battery; d == nil || d.Powered || !near(d.Joules, 288) || d.Tokens != 12 || !near(d.JPerTok, 24) || !d.Resolved {
		t.Errorf("battery: %+v", d)
	}
}

func near(a, b float64) bool { return a > b*0.999 && a < b*1.001 }

// A runtime that computes block 2 wrongly from the third position on is found
// out, and so is the layer.
func TestFirstDifferingLayer(t *testing.T) {
	_, o := emulated(t)
	path, b := openAssistant(t)
	forward, err := filepath.Abs(repo + "/internal/exec/forward.go")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(forward)
	if err != nil {
		t.Fatal(err)
	}
	const last = "\treturn addLinear(g, ops, x, f, b.Down, b.PostFFNNorm)\n"
	if strings.Count(string(text), last) != 1 {
		t.Fatalf("%s no longer ends Block with %q", forward, last)
	}
	broken := filepath.Join(t.TempDir(), "forward.go")
	wrong := strings.Replace(string(text), last, "\tif i == 2 {\n\t\tx.Row(x.R-1)[5] += 0.001\n\t}\n"+last, 1)
	if err := os.WriteFile(broken, []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	p := connect(t, o)
	push(t, p, build(t, map[string]string{forward: broken}), Runtime)
	push(t, p, path, "a.slmb")
	v, err := p.Verify(context.Background(), b, "a.slmb", "--threads", "1")
	if !errors.Is(err, formats.ErrCorrupt) || v.OK || v.Differs == nil {
		t.Fatalf("%+v, %v", v, err)
	}
	// The prompt's eight tokens are one batch, whose last row was broken.
	if d := v.Differs; d.Prompt != 0 || d.Position != 7 || d.Layer != "block 2" || d.Greedy || !strings.Contains(err.Error(), "prompt 0, position 7, block 2") {
		t.Errorf("%+v: %v", d, err)
	}
}

// A bundle that is damaged on the device is refused there, with slmrt's words.
func TestDamagedOnTheDevice(t *testing.T) {
	dir, o := emulated(t)
	path, b := openAssistant(t)
	p := connect(t, o)
	push(t, p, build(t, nil), Runtime)
	push(t, p, path, "a.slmb")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "a.slmb"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := p.Verify(context.Background(), b, "a.slmb")
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Code != 4 || v.OK || v.Error == "" {
		t.Errorf("%+v, %v", v, err)
	}
	if again := push(t, p, path, "a.slmb"); again.Already {
		t.Error("the damaged file passed for the bundle")
	}
	if v, err := p.Verify(context.Background(), b, "a.slmb"); err != nil || !v.OK {
		t.Errorf("%+v, %v", v, err)
	}
}

// What breaks on the way leaves nothing under the final name, and nothing
// beside it once a push comes through.
func TestPushFailures(t *testing.T) {
	for _, c := range []struct {
		fail  string
		kind  error
		wants string
		part  bool // may stay: nobody could remove it
	}{
		{"space", ErrSpace, "No space left", false},
		{"corrupt", formats.ErrCorrupt, "changed on the way", false},
		{"gone", nil, "not found", false},
		{"hang", context.DeadlineExceeded, "", false},
	} {
		t.Run(c.fail, func(t *testing.T) {
			dir, o := device(t)
			p := connect(t, o)
			file := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(file, make([]byte, 5000), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PHONE_FAIL", c.fail)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if c.fail == "hang" {
				var stop context.CancelFunc
				ctx, stop = context.WithTimeout(ctx, 3*time.Second)
				defer stop()
			}
			_, err := p.Push(ctx, file, "f.slmb", 0o644)
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.wants) {
				t.Errorf("error %v", err)
			}
			if list := names(t, dir); list != "" {
				t.Errorf("left on the device: %s", list)
			}
			// As a killed push would leave it.
			if err := os.WriteFile(filepath.Join(dir, "f.slmb.0123456789ab.part"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PHONE_FAIL", "")
			push(t, p, file, "f.slmb")
			if list := names(t, dir); list != "f.slmb" {
				t.Errorf("on the device: %s", list)
			}
		})
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func TestChoosingADevice(t *testing.T) {
	for _, c := range []struct {
		devices, serial string
		kind            error
		wants           string
	}{
		{"", "", ErrNoDevice, "sees none"},
		{`a\tdevice\nb\tdevice`, "", ErrChoose, "a, b; choose one with --serial"},
		{`a\tdevice\nb\tdevice`, "b", nil, ""},
		{`a\tdevice`, "c", ErrNoDevice, "does not see c"},
		{`a\tunauthorized`, "", ErrNoDevice, "accept the computer's key"},
		{`a\toffline`, "", ErrNoDevice, "plug it in again"},
		{`a\tno permissions (user in plugdev group; are your udev rules wrong?)`, "", ErrNoDevice, "udev"},
		{`a\tunauthorized\nb\tdevice`, "b", nil, ""},
	} {
		_, o := device(t)
		t.Setenv("PHONE_DEVICES", c.devices)
		o.Serial = c.serial
		p, err := Connect(context.Background(), o)
		if c.kind == nil && (err != nil || p.o.Serial != c.serial) || c.kind != nil && (!errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.wants)) {
			t.Errorf("%q, serial %q: %v", c.devices, c.serial, err)
		}
	}
	_, o := device(t)
	t.Setenv("PHONE_FAIL", "closed")
	if _, err := Connect(context.Background(), o); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("a connection that breaks: %v", err)
	}
	o.ADB = "/nothere/adb"
	if _, err := Connect(context.Background(), o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no adb: %v", err)
	}
	o.Dir = "relative"
	if _, err := Connect(context.Background(), o); err == nil {
		t.Error("a relative folder is accepted")
	}
}

func TestNamesOnTheDevice(t *testing.T) {
	_, o := device(t)
	p := connect(t, o)
	for _, name := range []string{"", "a b", "../a", "a;rm", "-a", "$(x)", strings.Repeat("a", 200)} {
		if _, err := p.Push(context.Background(), "phone_test.go", name, 0o644); err == nil {
			t.Errorf("the name %q is accepted", name)
		}
	}
}

func TestFreeBytes(t *testing.T) {
	for _, c := range []struct {
		out  string
		free int64
		ok   bool
	}{
		{"Filesystem     1K-blocks     Used Available Use% Mounted on\n/dev/block/dm-5 113000000 60000000  52000000  54% /data\n", 52000000 << 10, true},
		{"Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/fuse 100 60 40 60% /storage/my card\n", 40 << 10, true},
		{"df: /data: Permission denied\n", 0, false},
		{"", 0, false},
	} {
		if free, ok := freeBytes(c.out); free != c.free || ok != c.ok {
			t.Errorf("%q: %d %v", c.out, free, ok)
		}
	}
}

func TestTooLargeForTheDevice(t *testing.T) {
	_, o := device(t)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "df"), []byte("#!/bin/sh\necho 'f 100 90 10 90% /data'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := connect(t, o)
	t.Setenv("PHONE_BIN", bin)
	if _, err := p.Push(context.Background(), "phone_test.go", "x", 0o644); !errors.Is(err, ErrSpace) || !strings.Contains(fmt.Sprint(err), "10240 bytes free") {
		t.Errorf("error %v", err)
	}
}
