package calibrate

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"slmc/formats"
	"slmc/internal/exec"
)

func testStatistics(t testing.TB, hessian bool) (*Statistics, []byte) {
	t.Helper()
	env := testEnv(t, 1)
	s := &Statistics{Model: Digest{1, 2}, Text: Digest{3}, Inputs: map[string]*Input{}}
	for i, label := range []string{"blk.0.attn_in", "blk.0.ffn_mid", "output"} {
		in := correlated(t, env, rand.New(rand.NewPCG(uint64(i), 1)), 8+5*i, 30)
		in.Label = label
		if !hessian || i == 2 {
			in.H = nil
		}
		s.Inputs[label] = in
	}
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	return s, b.Bytes()
}

func read(raw []byte) (*Statistics, error) {
	return ReadStatistics("x.stat", bytes.NewReader(raw), int64(len(raw)))
}

func TestStatisticsFile(t *testing.T) {
	s, raw := testStatistics(t, true)
	got, err := read(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got.Model != s.Model || got.Text != s.Text || len(got.Inputs) != len(s.Inputs) {
		t.Errorf("read %v", got)
	}
	for label, in := range s.Inputs {
		sameInput(t, got.Inputs[label], in)
	}
	// Every byte counts: damage and truncation are found, with a kind.
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1 << (i % 8)
		if _, err := read(bad); !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrVersion) {
			t.Fatalf("a bit of byte %d flipped: %v", i, err)
		}
		if _, err := read(raw[:i]); !errors.Is(err, formats.ErrCorrupt) {
			t.Fatalf("cut at byte %d: %v", i, err)
		}
	}
	if _, err := read(append(bytes.Clone(raw), 0)); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("a byte more: %v", err)
	}
}

// A count that the file can't hold allocates nothing.
func TestStatisticsHugeCounts(t *testing.T) {
	_, raw := testStatistics(t, true)
	at := 80 + 2 + len("blk.0.attn_in")
	bad := bytes.Clone(raw)
	copy(bad[at:], []byte{0, 0, 0x10, 0}) // 2^20 columns, whose Hessian has 2^43 bytes
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := read(bad); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("2^20 columns: %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("allocated %d bytes", n)
	}
}

func TestStatisticsMatch(t *testing.T) {
	m := load(t, tiny)
	env := testEnv(t, 1)
	p, err := exec.LoadParams(m, 16)
	if err != nil {
		t.Fatal(err)
	}
	seqs := randomSequences(1, m.Vocab, 16)
	inputs, err := Observe(context.Background(), env, m.Graph, p, exec.KVF32, seqs, false)
	if err != nil {
		t.Fatal(err)
	}
	s := &Statistics{Model: Digest{1}, Text: seqs.Digest(), Inputs: inputs}
	text := s.Text
	if err := errors.Join(s.Match(Digest{1}, nil), s.Match(Digest{1}, &text), s.Fit(m.Graph)); err != nil {
		t.Error(err)
	}
	other := m.Graph.Clone()
	other.Weights[other.Index("blk.2.ffn_down.weight")].Shape[1]++
	for name, err := range map[string]error{
		"another model": s.Match(Digest{2}, nil), "another text": s.Match(Digest{1}, &Digest{}), "another width": s.Fit(other),
		"no inputs": (&Statistics{}).Fit(m.Graph),
	} {
		if !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzStatistics(f *testing.F) {
	_, raw := testStatistics(f, true)
	f.Add(raw)
	_, small := testStatistics(f, false)
	f.Add(small)
	f.Add(raw[:90])
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := read(raw)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := s.Write(&b); err != nil || !bytes.Equal(b.Bytes(), raw) {
			t.Errorf("read and written again gives other bytes: %v", err)
		}
	})
}
