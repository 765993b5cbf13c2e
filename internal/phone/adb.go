// Package phone runs bundles on Android devices through adb, Android's own
// bridge: it brings slmrt and a bundle there, has the golden vectors replayed,
// collects a bench, and reports which device kept its contract. All that it needs
// of a device is a shell with sha256sum, df, mv and chmod.
package phone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// The failures that callers tell apart with errors.Is.
var (
	ErrNoDevice = errors.New("no usable device")
	ErrChoose   = errors.New("several devices")
	ErrSpace    = errors.New("no space on the device")
)

// DefaultDir is where adb's shell may write and execute.
const DefaultDir = "/data/local/tmp/slmc"

// Options say how to reach a device.
type Options struct {
	ADB    string // path of the adb program
	Serial string // the device's; "" when there is only one
	Dir    string // folder on the device; "": DefaultDir
}

// Phone is a device that answers.
type Phone struct {
	o Options
	// Info says what it is.
	Info Device
}

// Device describes a phone, as far as it tells.
type Device struct {
	ID           string `json:"id"` // of its serial number: equal for equal phones
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	SoC          string `json:"soc"`
	Android      string `json:"android"`
	ABI          string `json:"abi"` // "arm64-v8a", or uname's machine
	Cores        int    `json:"cores"`
	MemoryBytes  int64  `json:"memory_bytes"`
}

// Name is the device for people.
func (d Device) Name() string {
	if name := strings.TrimSpace(d.Manufacturer + " " + d.Model); name != "" {
		return name
	}
	return "device " + d.ID
}

// attached is a line of "adb devices".
type attached struct{ serial, state string }

// Connect finds the device and asks what it is. Without a serial there must be
// one device only: ErrChoose. A device that is not there, offline or has not
// agreed to be debugged is ErrNoDevice.
func Connect(ctx context.Context, o Options) (*Phone, error) {
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if !strings.HasPrefix(o.Dir, "/") || strings.ContainsAny(o.Dir, "'\n") {
		return nil, fmt.Errorf("folder on the device %q: want an absolute path without quotes", o.Dir)
	}
	out, err := (&Phone{o: o}).adb(ctx, "devices")
	if err != nil {
		return nil, err
	}
	found, err := choose(devices(out), o.Serial)
	if err != nil {
		return nil, err
	}
	o.Serial = found.serial
	p := &Phone{o: o}
	return p, p.describe(ctx)
}

// devices reads the output of "adb devices"; the daemon's words on its start
// may stand before the list.
func devices(out string) (list []attached) {
	_, rest, _ := strings.Cut(out, "List of devices attached")
	for line := range strings.Lines(rest) {
		serial, state, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if ok {
			list = append(list, attached{serial, strings.TrimSpace(state)})
		}
	}
	return list
}

func choose(list []attached, serial string) (attached, error) {
	var names []string
	for _, d := range list {
		names = append(names, d.serial)
		if serial == "" && len(list) > 1 {
			continue
		}
		if serial != "" && d.serial != serial {
			continue
		}
		switch state, _, _ := strings.Cut(d.state, " "); state {
		case "device":
			return d, nil
		case "unauthorized":
			return d, fmt.Errorf("%w: %s is unauthorized; unlock it and accept the computer's key", ErrNoDevice, d.serial)
		case "offline":
			return d, fmt.Errorf("%w: %s is offline; plug it in again", ErrNoDevice, d.serial)
		default:
			return d, fmt.Errorf("%w: %s is in state %q", ErrNoDevice, d.serial, d.state)
		}
	}
	switch {
	case len(list) == 0:
		return attached{}, fmt.Errorf("%w: adb sees none; plug one in and turn on USB debugging in its developer options", ErrNoDevice)
	case serial != "":
		return attached{}, fmt.Errorf("%w: adb does not see %s; it sees %s", ErrNoDevice, serial, strings.Join(names, ", "))
	}
	return attached{}, fmt.Errorf("%w: %s; choose one with --serial", ErrChoose, strings.Join(names, ", "))
}

// adb runs one command of adb and returns its standard output.
func (p *Phone) adb(ctx context.Context, args ...string) (string, error) {
	if p.o.Serial != "" {
		args = append([]string{"-s", p.o.Serial}, args...)
	}
	cmd := exec.CommandContext(ctx, p.o.ADB, args...)
	cmd.WaitDelay = time.Second // a daemon that adb starts may hold the pipes
	out, errs := limited{max: maxOutput}, limited{max: 64 << 10}
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return out.String(), ctx.Err()
	case errors.As(err, new(*exec.ExitError)):
		// Not wrapped: a caller must not take adb's exit code for its own.
		return out.String(), fmt.Errorf("adb %s: %v: %s", verb(args), err, lastLines(errs.String()+out.String()))
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return out.String(), fmt.Errorf("adb %s: %w", verb(args), err)
	case out.over:
		return out.String(), fmt.Errorf("adb %s: more than %d bytes of output", verb(args), maxOutput)
	}
	return out.String(), nil
}

// maxOutput bounds what is taken from a device: a trace of 1024 positions and
// 100 layers has 4 MB.
const maxOutput = 64 << 20

// limited keeps the first max bytes.
type limited struct {
	bytes.Buffer
	max  int
	over bool
}

func (w *limited) Write(data []byte) (int, error) {
	if room := w.max - w.Len(); len(data) > room {
		w.over = true
		w.Buffer.Write(data[:room])
		return len(data), nil
	}
	return w.Buffer.Write(data)
}

// verb is adb's command among its arguments.
func verb(args []string) string {
	if len(args) > 2 && args[0] == "-s" {
		args = args[2:]
	}
	return args[0]
}

// lastLines is the end of what a program said, on one line.
func lastLines(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	if len(s) > 400 {
		s = "..." + s[len(s)-400:]
	}
	return strings.TrimSpace(s)
}

// endMark ends the output of a shell command, before its exit code: adb passes
// that on only where both sides know the newer shell protocol.
const endMark = "slmc-exit:"

// Shell runs a script in the folder on the device. The error is adb's; what the
// script says of itself is code and out.
func (p *Phone) shell(ctx context.Context, script string) (out string, code int, err error) {
	out, err = p.adb(ctx, "shell", "{ "+script+"; }; echo "+endMark+"$?")
	if err != nil {
		return out, 0, err
	}
	at := strings.LastIndex(out, endMark)
	if at < 0 {
		return out, 0, fmt.Errorf("adb shell: the connection ended before the command did: %s", lastLines(out))
	}
	code, err = strconv.Atoi(strings.TrimSpace(out[at+len(endMark):]))
	if err != nil {
		return out, 0, fmt.Errorf("adb shell: exit code %q", strings.TrimSpace(out[at+len(endMark):]))
	}
	return strings.ReplaceAll(out[:at], "\r\n", "\n"), code, nil
}

// quote makes one word of the device's shell of s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
