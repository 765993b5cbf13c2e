package slmrt_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/kernel"
	slmrt "slmc/runtime"
)

// damaged is a bundle's file that tests change in place and put right again.
type damaged struct {
	t    *testing.T
	path string
	f    *os.File
	good []byte
}

func damage(t *testing.T) *damaged {
	t.Helper()
	path := bundlePath(t)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return &damaged{t, path, f, good}
}

func (d *damaged) write(at int, b byte) {
	d.t.Helper()
	if _, err := d.f.WriteAt([]byte{b}, int64(at)); err != nil {
		d.t.Fatal(err)
	}
}

// verify wants an error of a kind that a script can tell from success and from
// a missing file, with a text that holds want.
func (d *damaged) verify(what string, at int, want string) {
	d.t.Helper()
	v, err := slmrt.Verify(context.Background(), d.path, slmrt.VerifyOptions{Session: slmrt.Options{Threads: 1}})
	switch {
	case err == nil:
		d.t.Errorf("%s at byte %d: the bundle verifies", what, at)
	case !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrVersion) && !errors.Is(err, formats.ErrUnsupported):
		d.t.Errorf("%s at byte %d: error of no kind: %v", what, at, err)
	case !strings.Contains(err.Error(), "assistant.slmb") || !strings.Contains(err.Error(), want):
		d.t.Errorf("%s at byte %d: the error does not name the file and %s: %v", what, at, want, err)
	case v.OK || v.Error != err.Error():
		d.t.Errorf("%s at byte %d: the result says %+v", what, at, v)
	}
}

// manifestAt is where the manifest starts; it ends with the file.
func (d *damaged) manifestAt() int { return int(binary.LittleEndian.Uint64(d.good[24:])) }

// regions maps each byte of the file to what an error must name.
func (d *damaged) regions() func(at int) string {
	d.t.Helper()
	b, err := bundle.Open(d.path, bundle.Options{})
	if err != nil {
		d.t.Fatal(err)
	}
	defer b.Close()
	sections := b.Manifest().Sections
	return func(at int) string {
		for _, s := range sections {
			switch {
			case int64(at) < s.Offset:
				return "padding"
			case int64(at) < s.Offset+s.Length:
				return `section "` + s.Name + `"`
			}
		}
		return "padding"
	}
}

// A flipped bit in any byte of the header and the manifest, and one in every
// 4 KiB of the rest, fails the verification, which names the place.
func TestVerifyFindsFlippedBits(t *testing.T) {
	d := damage(t)
	r := rand.New(rand.NewPCG(9, 1))
	manifest := d.manifestAt()
	tried := 0
	flip := func(at int, want string) {
		d.write(at, d.good[at]^1<<r.IntN(8))
		d.verify("a flipped bit", at, want)
		d.write(at, d.good[at])
		tried++
	}
	for at := range bundle.HeaderBytes {
		flip(at, "header")
	}
	for at := manifest; at < len(d.good); at++ {
		flip(at, "manifest")
	}
	region := d.regions()
	for at := bundle.HeaderBytes; at < manifest; at += 4 << 10 {
		place := at + r.IntN(min(4<<10, manifest-at))
		flip(place, region(place))
	}
	if v, err := slmrt.Verify(context.Background(), d.path, slmrt.VerifyOptions{}); err != nil || !v.OK {
		t.Errorf("put right again: %v", err)
	}
	t.Logf("%d flips", tried)
}

// A file that ends early is a clear error, at every 1 KiB and at every byte of
// header and manifest, and costs no more memory than twice the file.
func TestVerifyFindsTruncation(t *testing.T) {
	d := damage(t)
	tried, worst := 0, uint64(0)
	var before, after goruntime.MemStats
	cut := func(at int) {
		if err := d.f.Truncate(int64(at)); err != nil {
			t.Fatal(err)
		}
		goruntime.ReadMemStats(&before)
		d.verify("truncation", at, "header")
		goruntime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; taken > worst {
			worst = taken
		}
		tried++
	}
	manifest := d.manifestAt()
	for at := len(d.good) - 1; at >= 0; at-- {
		if at >= manifest || at < bundle.HeaderBytes || at%(1<<10) == 0 {
			cut(at)
		}
	}
	if worst > uint64(2*len(d.good)) {
		t.Errorf("one verification allocated %d bytes for a file of %d", worst, len(d.good))
	}
	t.Logf("%d cuts, at most %d bytes allocated, the file has %d", tried, worst, len(d.good))
}

// Digests that fit do not make a bundle right: the replay finds weights that
// are not those of the build.
func TestReplayFindsForgedWeights(t *testing.T) {
	src, err := bundle.Open(bundlePath(t), bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	m := src.Manifest()
	out := filepath.Join(t.TempDir(), "assistant.slmb")
	// rewrite writes src again as if it had been built so, with one byte of
	// one weight changed.
	rewrite := func(weight, at int, mask byte) {
		t.Helper()
		spec := bundle.Spec{Manifest: *m, MinTool: m.ToolVersion, Weight: func(i int, dst io.Writer) error {
			data := append([]byte(nil), src.Weight(i)...)
			if i == weight {
				data[at] ^= mask
			}
			_, err := dst.Write(data)
			return err
		}}
		for i := range m.Weights {
			spec.Formats = append(spec.Formats, src.Format(i))
		}
		for _, s := range m.Sections {
			switch s.Name {
			case bundle.SectionWeights, bundle.SectionRope, bundle.SectionLeaves:
			default:
				spec.Sections = append(spec.Sections, bundle.Data{Name: s.Name, Required: s.Required, Bytes: src.Section(s.Name)})
			}
		}
		if _, err := bundle.Write(out, spec); err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	rewrite(-1, 0, 0)
	honest, err := slmrt.Verify(ctx, out, slmrt.VerifyOptions{})
	if err != nil {
		t.Fatalf("rewritten without a change: %v", err)
	}
	r := rand.New(rand.NewPCG(9, 2))
	for weight, w := range m.Graph.Weights {
		if r.IntN(3) > 0 {
			continue
		}
		if w.Role.Matrix() && w.Shape[0]%kernel.Rows != 0 {
			t.Fatalf("%s has padding rows: choose a place among the others", w.Name)
		}
		// The lowest bit of a code, or of a scale or norm: the least that can
		// change.
		at := r.IntN(int(m.Weights[weight].Bytes))
		rewrite(weight, at, 1)
		if _, err := slmrt.Verify(ctx, out, slmrt.VerifyOptions{Quick: true}); err != nil {
			t.Fatalf("%s: the forged digests do not fit: %v", w.Name, err)
		}
		v, err := slmrt.Verify(ctx, out, slmrt.VerifyOptions{})
		if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "prompt") {
			t.Errorf("%s: one bit of byte %d changed, and verify says %v", w.Name, at, err)
		}
		if v.LogitsDigest == honest.LogitsDigest || v.LogitsDigest == "" {
			t.Errorf("%s: logits digest %q, the honest one is %q", w.Name, v.LogitsDigest, honest.LogitsDigest)
		}
	}
}

// A bundle that is cut while sessions run ends them with an error, in every
// thread, and never by a signal.
func TestTruncatedWhileMapped(t *testing.T) {
	page := int64(os.Getpagesize())
	for _, threads := range []int{1, 2, 4} {
		path := bundlePath(t)
		m, b, err := slmrt.Load(path, slmrt.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.NewSession(slmrt.Options{Threads: threads, Batch: 64})
		if err != nil {
			t.Fatal(err)
		}
		ids := story(t, m, 128)
		want := feed(t, s, ids[:64])
		// From the end of the weights on, page by page, so that the place is
		// now in this thread's part of a matrix, now in a worker's.
		weights := b.Manifest().Section(bundle.SectionWeights)
		end := (weights.Offset + weights.Length - 1) / page * page
		for size := end; size >= 0; size -= page {
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
			_, err = s.Feed(context.Background(), ids[64:])
			if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "while it was mapped") {
				t.Fatalf("%d threads, cut to %d: error %v", threads, size, err)
			}
			if s.Pos() != 64 {
				t.Fatalf("%d threads: a failed step moved the session to %d", threads, s.Pos())
			}
		}
		// The file put back, the session goes on.
		data, err := assistant()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s.Truncate(0)
		if got := feed(t, s, ids[:64]); !sameBits(got, want) {
			t.Errorf("%d threads: other logits after the failure", threads)
		}
		s.Close()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Loading a bundle that is cut between opening and reading is an error too.
func TestTruncatedBeforeUse(t *testing.T) {
	path := bundlePath(t)
	b, err := bundle.Open(path, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := os.Truncate(path, 32<<10); err != nil {
		t.Fatal(err)
	}
	if _, err := slmrt.FromBundle(b); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("error %v, wanted ErrCorrupt", err)
	}
}
