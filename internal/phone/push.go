package phone

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"slmc/formats"
)

// Runtime is the name of slmrt on the device.
const Runtime = "slmrt"

// Pushed is a file that lies on the device, byte for byte.
type Pushed struct {
	Name    string  `json:"name"`
	Bytes   int64   `json:"bytes"`
	SHA256  string  `json:"sha256"`
	Already bool    `json:"already"` // it lay there before
	Seconds float64 `json:"seconds"`
}

// plainName is what a file on the device may be called: the shell there is left
// nothing to interpret.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,120}$`)

// Push brings a file to the device under the name, unless it is there. It
// travels under another name, is digested there, and is renamed: a push that
// fails or is killed leaves nothing under the name, and the next one removes what
// was left. Errors: ErrSpace, formats.ErrCorrupt for a file that arrived
// changed.
func (p *Phone) Push(ctx context.Context, file, name string, mode os.FileMode) (Pushed, error) {
	if !plainName.MatchString(name) {
		return Pushed{}, fmt.Errorf("name on the device %q: want letters, digits, dots, dashes and underscores", name)
	}
	begin := time.Now()
	sum, size, err := digest(ctx, file)
	if err != nil {
		return Pushed{}, err
	}
	done := Pushed{Name: name, Bytes: size, SHA256: sum}
	final := p.o.Dir + "/" + name
	there, err := p.sum(ctx, final)
	if err != nil {
		return done, err
	}
	if there == sum {
		done.Already = true
		return done, p.must(ctx, fmt.Sprintf("chmod %o %s", mode, quote(final)))
	}
	if err := p.must(ctx, fmt.Sprintf("mkdir -p %s && rm -f %s.*.part", quote(p.o.Dir), quote(final))); err != nil {
		return done, err
	}
	if err := p.roomFor(ctx, size); err != nil {
		return done, err
	}
	part := final + "." + sum[:12] + ".part"
	if err := p.bring(ctx, file, part, sum, mode); err != nil {
		p.clean(ctx, part)
		return done, err
	}
	if err := p.must(ctx, fmt.Sprintf("mv -f %s %s", quote(part), quote(final))); err != nil {
		p.clean(ctx, part)
		return done, err
	}
	done.Seconds = time.Since(begin).Seconds()
	return done, nil
}

// bring copies the file and checks what arrived.
func (p *Phone) bring(ctx context.Context, file, part, sum string, mode os.FileMode) error {
	if _, err := p.adb(ctx, "push", file, part); err != nil {
		if strings.Contains(strings.ToLower(err.Error()), "no space left") {
			return fmt.Errorf("%w: %w", ErrSpace, err)
		}
		return err
	}
	got, err := p.sum(ctx, part)
	if err != nil {
		return err
	}
	if got != sum {
		return formats.Corrupt(filepath.Base(file), "", -1, "SHA-256 on the device is %q, wanted %s: it was changed on the way", got, sum)
	}
	return p.must(ctx, fmt.Sprintf("chmod %o %s", mode, quote(part)))
}

// clean removes what a failed push left, even when ctx is over.
func (p *Phone) clean(ctx context.Context, part string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	// The device may be gone; then the next push removes it.
	_, _, _ = p.shell(ctx, "rm -f "+quote(part))
}

// sum is the SHA-256 of a file on the device, "" when there is none.
func (p *Phone) sum(ctx context.Context, file string) (string, error) {
	out, code, err := p.shell(ctx, fmt.Sprintf("if [ -f %s ]; then sha256sum %s; else echo none; fi", quote(file), quote(file)))
	if err != nil {
		return "", err
	}
	word, _, _ := strings.Cut(strings.TrimSpace(out), " ")
	switch {
	case word == "none":
		return "", nil
	case code != 0 || len(word) != 64:
		return "", fmt.Errorf("the device can not digest %s: exit code %d, %q; it needs sha256sum (Android 6 or newer)", path.Base(file), code, lastLines(out))
	}
	return word, nil
}

// must runs a script that has to end with 0.
func (p *Phone) must(ctx context.Context, script string) error {
	out, code, err := p.shell(ctx, "("+script+") 2>&1")
	if err == nil && code != 0 {
		err = fmt.Errorf("on the device: %q: exit code %d: %s", script, code, lastLines(out))
		if strings.Contains(out, "No space left") {
			err = fmt.Errorf("%w: %w", ErrSpace, err)
		}
	}
	return err
}

// slack is left free beside a pushed file.
const slack = 8 << 20

// roomFor asks for the free space. A df that can't be read says nothing.
func (p *Phone) roomFor(ctx context.Context, size int64) error {
	out, code, err := p.shell(ctx, "df -kP "+quote(p.o.Dir)+" 2>/dev/null || df -k "+quote(p.o.Dir))
	if err != nil || code != 0 {
		return err
	}
	if free, ok := freeBytes(out); ok && free < size+slack {
		return fmt.Errorf("%w: %s has %d bytes free, the file takes %d and %d stay free", ErrSpace, p.o.Dir, free, size, slack)
	}
	return nil
}

// freeBytes reads the last line of df -k: device, blocks, used, available, use%,
// place.
func freeBytes(out string) (int64, bool) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	f := strings.Fields(lines[len(lines)-1])
	for i := 4; i < len(f); i++ {
		if strings.HasSuffix(f[i], "%") {
			kb, err := strconv.ParseInt(f[i-1], 10, 64)
			return kb << 10, err == nil
		}
	}
	return 0, false
}

// digest is the SHA-256 of a local file and its size.
func digest(ctx context.Context, file string) (string, int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	n, err := io.Copy(h, reader{ctx, f})
	if err = errors.Join(err, f.Close()); err != nil {
		return "", 0, err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), n, nil
}

// reader ends with the context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// abis are the machines of programs that a device runs, by its ABI.
var abis = map[string]elf.Machine{
	"arm64-v8a": elf.EM_AARCH64, "aarch64": elf.EM_AARCH64, "x86_64": elf.EM_X86_64,
}

// CheckRuntime refuses a program that the device can't run.
func (p *Phone) CheckRuntime(file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return formats.Unsupported(file, "", -1, "no program of Linux or Android: %v", err)
	}
	defer f.Close()
	want, known := abis[p.Info.ABI]
	switch {
	case !known:
		return formats.Unsupported(file, "", -1, "the device has ABI %q; slmrt is built for arm64-v8a and x86_64", p.Info.ABI)
	case f.Machine != want:
		return formats.Unsupported(file, "", -1, "the program is for %s, the device has ABI %q", f.Machine, p.Info.ABI)
	}
	return nil
}

// RuntimeNames lists what slmrt for this device may be called, best first.
func (p *Phone) RuntimeNames() []string {
	arch := "arm64"
	if p.Info.ABI == "x86_64" {
		arch = "amd64"
	}
	return []string{"slmrt-android-" + arch, "slmrt-linux-" + arch}
}
