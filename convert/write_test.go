package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"slmc/calibrate"
	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

func plan(t testing.TB, g *model.Graph, weights string) *Plan {
	t.Helper()
	r, err := model.Preset(weights, "")
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(g, r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func writeOptions(t testing.TB, threads int) WriteOptions {
	t.Helper()
	k, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	return WriteOptions{Threads: threads, Kernel: k, Scales: calibrate.RTN{Kernel: k}.Scales}
}

// The bytes of every weight are those of Encode and Pack, at the planned
// offset; the rest is zero; and threads and kernels change nothing.
func TestWrite(t *testing.T) {
	m := open(t, testdata("assistant-tiny"), Options{}).Model
	for _, weights := range []string{"w8", "w4", "w2", "w8g128", "f16", "bf16", "f32"} {
		p := plan(t, m.Graph, weights)
		var want bytes.Buffer
		if err := Write(t.Context(), &want, m, p, writeOptions(t, 1)); err != nil {
			t.Fatal(err)
		}
		if int64(want.Len()) != p.Bytes {
			t.Fatalf("%s: %d bytes, planned %d", weights, want.Len(), p.Bytes)
		}
		checkBytes(t, weights, m, p, want.Bytes())
		for _, im := range kernel.Impls() {
			if !im.OK {
				continue
			}
			for _, threads := range []int{1, 2, 7} {
				var got bytes.Buffer
				o := WriteOptions{Threads: threads, Kernel: &im.Funcs, Scales: calibrate.RTN{Kernel: &im.Funcs}.Scales}
				if err := Write(t.Context(), &got, m, p, o); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.Bytes(), want.Bytes()) {
					t.Errorf("%s: %d threads with kernel %s give other bytes", weights, threads, im.Name)
				}
			}
		}
	}
}

// checkBytes compares each weight with what exec packs of it, and the gaps with
// zero.
func checkBytes(t *testing.T, weights string, m *model.Model, p *Plan, got []byte) {
	t.Helper()
	end := int64(0)
	for _, s := range p.Stored {
		w := m.Weights[s.Weight]
		if s.Offset%Align != 0 || s.Offset < end {
			t.Fatalf("%s: %s at %d, the weight before ends at %d", weights, w.Name, s.Offset, end)
		}
		for _, b := range got[end:s.Offset] {
			if b != 0 {
				t.Fatalf("%s: padding before %s is not zero", weights, w.Name)
			}
		}
		end = s.Offset + s.Bytes
		data := got[s.Offset:end]
		if !w.Role.Matrix() {
			x, err := m.Tensor(s.Weight)
			if err != nil {
				t.Fatal(err)
			}
			back := make([]float32, len(x))
			if err := tensor.Decode(back, data, tensor.F32); err != nil {
				t.Fatal(err)
			}
			for i := range x {
				if x[i] != back[i] {
					t.Fatalf("%s: %s differs at %d", weights, w.Name, i)
				}
			}
			continue
		}
		scales := writeOptions(t, 1).Scales
		mat, err := exec.PackMatrix(m, s.Weight, s.Format, func(row []float32) []tensor.Half {
			dst := make([]tensor.Half, quant.Groups(s.Format, len(row)))
			if err := scales(dst, s.Format, row); err != nil {
				t.Fatal(err)
			}
			return dst
		})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(mat.Panels, data) {
			t.Errorf("%s: %s is not what Encode and Pack give", weights, w.Name)
		}
	}
}

// The plan's figures for a model whose arithmetic is known: MobileLLM-125M at
// GroupSize 32 stores 8.5 bits a weight, and padding and norms little more.
func TestPlan(t *testing.T) {
	text := `{"model_type": "mobilellm", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
		"intermediate_size": 1536, "vocab_size": 32000, "share_embedding": true, "tie_word_embeddings": false, "hidden_act": "silu"}`
	c, err := model.ParseConfig("config.json", strings.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	g, err := model.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		weights  string
		lo, high float64
	}{{"w8", 8.5, 8.51}, {"w4", 4.5, 4.51}, {"w2", 2.58, 2.6}, {"f16", 16, 16.02}} {
		p := plan(t, g, c.weights)
		if p.Params != 124635456 {
			t.Errorf("%d parameters, want 124635456", p.Params)
		}
		if p.BPW() < c.lo || p.BPW() > c.high {
			t.Errorf("%s: %.4f bits per weight, want %g to %g", c.weights, p.BPW(), c.lo, c.high)
		}
		if p.WorkBytes(2) > 4<<20 {
			t.Errorf("%s: %d bytes of work", c.weights, p.WorkBytes(2))
		}
		if len(p.Stored) != len(g.Weights) {
			t.Fatalf("%s: %d weights stored of %d", c.weights, len(p.Stored), len(g.Weights))
		}
		for i, s := range p.Stored {
			if s.Weight != i || s.Offset%Align != 0 {
				t.Errorf("%s: weight %d is stored as number %d at %d", c.weights, s.Weight, i, s.Offset)
			}
		}
	}
}

// faulty gives values that fail at one element.
type faulty struct {
	model.Values
	weight int
	err    error
	value  float32
}

func (f faulty) Read(i, off int, dst []float32) error {
	if i == f.weight && f.err != nil {
		return f.err
	}
	err := f.Values.Read(i, off, dst)
	if i == f.weight && len(dst) > 0 {
		dst[len(dst)-1] = f.value
	}
	return err
}

type failingWriter struct{ left int }

var errFull = errors.New("disk full")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// Every failure ends Write, without a goroutine left behind.
func TestWriteFails(t *testing.T) {
	m := open(t, testdata("assistant-tiny"), Options{}).Model
	p := plan(t, m.Graph, "w8")
	before := runtime.NumGoroutine()
	broken := errors.New("broken")
	for _, weights := range []string{"w8", "w4", "f16"} {
		p := plan(t, m.Graph, weights)
		for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1)), 3e38} {
			bad := &model.Model{Graph: m.Graph, Values: faulty{m.Values, m.Index("blk.2.ffn_up.weight"), nil, v}}
			if err := Write(t.Context(), io.Discard, bad, p, writeOptions(t, 3)); !errors.Is(err, quant.ErrNotFinite) || !strings.Contains(err.Error(), "blk.2.ffn_up.weight") {
				t.Errorf("%s: %g gave %v", weights, v, err)
			}
		}
	}
	bad := &model.Model{Graph: m.Graph, Values: faulty{m.Values, m.Index("blk.4.attn_norm.weight"), broken, 0}}
	if err := Write(t.Context(), io.Discard, bad, p, writeOptions(t, 2)); !errors.Is(err, broken) {
		t.Errorf("failing read: %v", err)
	}
	for _, n := range []int{0, 1000, 300000} {
		if err := Write(t.Context(), &failingWriter{n}, m, p, writeOptions(t, 2)); !errors.Is(err, errFull) {
			t.Errorf("failing write after %d bytes: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var at atomic.Int64
	o := writeOptions(t, 2)
	o.Progress = func(done, total int64) {
		if at.Store(done); done > total/2 {
			cancel()
		}
	}
	if err := Write(ctx, io.Discard, m, p, o); !errors.Is(err, context.Canceled) || at.Load() == p.Bytes {
		t.Errorf("cancelled at %d of %d: %v", at.Load(), p.Bytes, err)
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			break
		}
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

// Progress reaches the end, in order.
func TestWriteProgress(t *testing.T) {
	m := open(t, testdata("assistant-tiny"), Options{}).Model
	p := plan(t, m.Graph, "w8")
	o, last := writeOptions(t, 2), int64(0)
	o.Progress = func(done, total int64) {
		if done <= last || total != p.Bytes {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	}
	h := sha256.New()
	if err := Write(t.Context(), h, m, p, o); err != nil {
		t.Fatal(err)
	}
	if last < p.Bytes-Align {
		t.Errorf("progress ended at %d of %d", last, p.Bytes)
	}
}
