package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakePhone puts the stand-in adb on PATH, writes the assistant's bundle and
// builds slmrt for the device. call calls slmc phone with the device's folder.
func fakePhone(t *testing.T) (bundle, dir string, call func(args ...string) (code int, stdout, stderr string)) {
	t.Helper()
	transport, err := filepath.Abs(repo + "/internal/phone/testdata")
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	dir = filepath.Join(work, "device")
	t.Setenv("PATH", transport+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("PHONE_DEVICES", `emulated-1\tdevice`)
	t.Setenv("PHONE_BIN", filepath.Join(transport, "bin"))
	t.Setenv("PHONE_STATE", filepath.Join(work, "battery"))
	t.Setenv("PHONE_FAIL", "")
	bundle = filepath.Join(work, "assistant.slmb")
	if err := os.WriteFile(bundle, assistantBundle(t), 0o600); err != nil {
		t.Fatal(err)
	}
	slmrt := filepath.Join(work, "slmrt-linux-arm64")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", slmrt, "slmc/cmd/slmrt")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bundle, dir, func(args ...string) (int, string, string) {
		args = append([]string{"slmc", "phone"}, args...)
		if args[2] != "report" {
			args = append(args, "--dir", dir)
		}
		if args[2] != "report" && !slices.Contains(args, "--slmrt") {
			args = append(args, "--slmrt", slmrt)
		}
		var stdout, stderr bytes.Buffer
		code := run(args, strings.NewReader(""), &stdout, &stderr)
		return code, stdout.String(), stderr.String()
	}
}

// The commands in their order, against an emulated arm64 device.
func TestPhoneCommands(t *testing.T) {
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Skip("qemu-aarch64-static is missing (Debian package qemu-user-static): nothing here runs arm64 programs")
	}
	bundle, _, phone := fakePhone(t)
	t.Setenv("PHONE_RUN", qemu)
	code, out, errs := phone("push", bundle)
	if code != 0 || strings.Count(out, "pushed") != 2 || !strings.Contains(out, "QEMU Emulated Phone, arm64-v8a") {
		t.Fatalf("push: exit %d: %s%s", code, out, errs)
	}
	work := t.TempDir()
	verified, timed := filepath.Join(work, "v.json"), filepath.Join(work, "b.json")
	if code, out, errs = phone("verify", bundle, "--threads", "1", "-o", verified); code != 0 || !strings.HasPrefix(out, "ok  QEMU Emulated Phone  ") {
		t.Fatalf("verify: exit %d: %s%s", code, out, errs)
	}
	code, out, errs = phone("bench", bundle, "--threads", "1", "--repetitions", "1", "--prompt-tokens", "8", "--decode-tokens", "4", "-o", timed, "--json")
	var result struct {
		Bench map[string]any
	}
	if err := json.Unmarshal([]byte(out), &result); code != 0 || err != nil || result.Bench["prompt_tokens"] != 8.0 {
		t.Fatalf("bench: exit %d: %s%s%v", code, out, errs, err)
	}
	page := filepath.Join(work, "report.html")
	if code, out, errs = phone("report", verified, timed, "-o", page); code != 0 || !strings.Contains(out, "1 bundles on 1 devices") {
		t.Fatalf("report: exit %d: %s%s", code, out, errs)
	}
	text, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(text), "contract ") {
		t.Errorf("%v: %s", err, text)
	}
	code, out, _ = phone("report", verified, timed, "-o", filepath.Join(work, "report.json"), "--json")
	var matrix struct {
		Cells []struct{ Digests, Logits string }
	}
	if err := json.Unmarshal([]byte(out), &matrix); code != 0 || err != nil || len(matrix.Cells) != 1 || matrix.Cells[0].Logits != "kept" || matrix.Cells[0].Digests != "kept" {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
}

// What goes wrong ends with the code of its class.
func TestPhoneErrors(t *testing.T) {
	bundle, dir, phone := fakePhone(t)
	for _, c := range []struct {
		name, env, value string
		args             []string
		code             int
		says             string
	}{
		{"no device", "PHONE_DEVICES", "", []string{"push", bundle}, 1, "adb sees none"},
		{"unauthorized", "PHONE_DEVICES", `x\tunauthorized`, []string{"verify", bundle}, 1, "accept the computer's key"},
		{"two devices", "PHONE_DEVICES", `x\tdevice\ny\tdevice`, []string{"push", bundle}, 2, "--serial"},
		{"another device", "PHONE_DEVICES", `x\tdevice`, []string{"push", bundle, "--serial", "z"}, 1, "does not see z"},
		{"no space", "PHONE_FAIL", "space", []string{"push", bundle}, 1, "no space on the device"},
		{"changed on the way", "PHONE_FAIL", "corrupt", []string{"push", bundle}, 4, "changed on the way"},
		{"no adb", "PATH", "/nothere", []string{"push", bundle}, 1, "platform-tools"},
		{"no bundle", "PHONE_FAIL", "", []string{"push", "nothere.slmb"}, 1, "nothere.slmb"},
		{"no result", "PHONE_FAIL", "", []string{"report", bundle, "-o", "x.html"}, 4, "no result"},
		{"another form", "PHONE_FAIL", "", []string{"report", bundle, "-o", "x.pdf"}, 4, "no result"},
		{"no command", "PHONE_FAIL", "", []string{"fly"}, 2, "no command"},
		{"no file", "PHONE_FAIL", "", []string{"push"}, 2, "push wants BUNDLE"},
		{"wrong program", "PHONE_FAIL", "", []string{"push", bundle, "--slmrt", bundle}, 3, "no program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(c.env, c.value)
			code, _, errs := phone(c.args...)
			if code != c.code || !strings.Contains(errs, c.says) {
				t.Errorf("exit %d, wanted %d and %q in: %s", code, c.code, c.says, errs)
			}
			if list, err := filepath.Glob(dir + "/*"); err != nil || len(list) > 0 {
				t.Errorf("left on the device: %v %v", list, err)
			}
		})
	}
}

// A push that is killed leaves nothing under the final name; the next one
// cleans up and comes through.
func TestPhonePushKilled(t *testing.T) {
	bundle, dir, phone := fakePhone(t)
	slmc := program(t, "slmc")
	cmd := exec.Command(slmc, "phone", "push", bundle, "--dir", dir, "--slmrt", filepath.Join(filepath.Dir(bundle), "slmrt-linux-arm64"))
	cmd.Env = append(os.Environ(), "PHONE_FAIL=hang")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		if list, err := filepath.Glob(dir + "/*.part"); err == nil && len(list) > 0 {
			break
		}
		if i == 1000 {
			t.Fatal("the push never began")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it was killed and says that it succeeded")
	}
	if _, err := os.Stat(filepath.Join(dir, "slmrt")); !os.IsNotExist(err) {
		t.Errorf("something has the final name: %v", err)
	}
	if code, _, errs := phone("push", bundle); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	if list, err := filepath.Glob(dir + "/*"); err != nil || len(list) != 2 || strings.Contains(strings.Join(list, " "), ".part") {
		t.Errorf("on the device: %v %v", list, err)
	}
}
