package slmrt_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/deferral"
	slmrt "slmc/runtime"
)

// drawnRouter is a router for m with weights drawn from a seed: nothing that it
// says means anything, but every feature moves its scores.
func drawnRouter(t testing.TB, m *slmrt.Model, weights [32]byte) *deferral.Router {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 0))
	draw := func(n int, a float64) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(a * r.NormFloat64())
		}
		return x
	}
	o := &deferral.Opinion{Unigrams: 512, Bigrams: 256, Dim: 8}
	for id := range 40 {
		o.Classes = append(o.Classes, []int32{int32(7 * id), int32(id), 3})
	}
	o.Table, o.Out, o.Bias = draw(768*8, 1), draw(40*8, 1), draw(40, 0.1)
	p := deferral.Parts{Shape: slmrt.ShapeOf(m), Weights: weights, Opinion: o}
	p.Strange = deferral.Strange{Inv: [4]float32{1, 0.5, 0.25, 0.125}, CDF: deferral.Curve{X: []float32{-9, 9}, Y: []float32{0, 1}}}
	for _, at := range deferral.Checkpoints() {
		n := p.Shape.Layout(at, o.Dim).Size()
		h := deferral.Head{Checkpoint: at, Hidden: 6, Mean: draw(n, 0.1), Inv: make([]float32, n), W1: draw(6*n, 0.05), B1: draw(6, 0.1), W2: draw(12, 0.5), B2: draw(2, 0.1)}
		for i := range n {
			h.Inputs, h.Inv[i] = append(h.Inputs, int32(i)), 1
		}
		p.Heads = append(p.Heads, h)
	}
	p.Round()
	router, err := deferral.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return router
}

// queriesOf returns queries of testdata.
func queriesOf(t testing.TB, n int) (out []string) {
	t.Helper()
	f, err := os.Open("../testdata/requests.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan() && len(out) < n; {
		var row struct{ Query string }
		if err := json.Unmarshal(s.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		out = append(out, row.Query)
	}
	if len(out) < n {
		t.Fatalf("%d requests, want %d", len(out), n)
	}
	return out
}

// read returns all readings of a greedy answer.
func read(t testing.TB, m *slmrt.Model, s *slmrt.Session, query string) slmrt.Result {
	t.Helper()
	ids, err := m.EncodeUser(query, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	s.Truncate(0)
	res, err := s.Generate(context.Background(), slmrt.Request{Prompt: ids, MaxTokens: 40, OnReading: func(deferral.Reading) bool { return false }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// The scores' bits are the same on every CPU, with every kernel, batch size and
// number of threads: the digest is of amd64, and the test runs on arm64 too.
func TestReadingsHaveTheSameBitsEverywhere(t *testing.T) {
	const want = "f885da5bf3767d0e198b8753f68dc1d31563757edf8802a525623b5a6bba163e"
	m := load(t)
	m, err := m.WithRouter(drawnRouter(t, m, [32]byte{}))
	if err != nil {
		t.Fatal(err)
	}
	queries := queriesOf(t, 50)
	for _, o := range []slmrt.Options{{}, {Batch: 3, Threads: 1}, {Kernel: "scalar", Threads: 2, Batch: 7}} {
		s, err := m.NewSession(o)
		if err != nil {
			t.Fatal(err)
		}
		h, mids := sha256.New(), 0
		for _, q := range queries {
			for _, x := range read(t, m, s, q).Readings {
				h.Write([]byte(x.Checkpoint))
				for _, v := range []float32{float32(x.Tokens), x.Wrong, x.Gain, x.Score, x.OOD} {
					h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
				}
				if x.Checkpoint == deferral.Mid {
					mids++
				}
			}
		}
		s.Close()
		if got := hex.EncodeToString(h.Sum(nil)); got != want {
			t.Errorf("%+v: readings have the digest %s, want %s", o, got, want)
		}
		if mids == 0 {
			t.Error("no mid reading: the answers are too short to show anything")
		}
	}
}

func TestReadingsComeInOrderAndHandOff(t *testing.T) {
	m := load(t)
	bare := m
	m, err := m.WithRouter(drawnRouter(t, m, [32]byte{}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.NewSession(slmrt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const query = "what is the weather in paris tomorrow"
	ids, err := m.EncodeUser(query, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	whole := read(t, m, s, query)
	if n := len(whole.Readings); n < 2 || whole.Readings[0].Checkpoint != deferral.Pre || whole.Readings[n-1].Checkpoint != deferral.Post || whole.Readings[n-1].Tokens != whole.Tokens {
		t.Fatalf("readings are %+v", whole.Readings)
	}
	if whole.Handoff {
		t.Error("a generation that nobody took away is handed off")
	}
	for _, stop := range deferral.Checkpoints() {
		if !slices.ContainsFunc(whole.Readings, func(x deferral.Reading) bool { return x.Checkpoint == stop }) {
			continue
		}
		s.Truncate(0)
		text := ""
		res, err := s.Generate(context.Background(), slmrt.Request{Prompt: ids, MaxTokens: 40, OnReading: func(x deferral.Reading) bool { return x.Checkpoint == stop }},
			func(part string) error { text += part; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if !res.Handoff || res.Text != text || res.Readings[len(res.Readings)-1].Checkpoint != stop {
			t.Errorf("%s: handoff %v, text %q, emitted %q, readings %+v", stop, res.Handoff, res.Text, text, res.Readings)
		}
		if early := res.Stop == slmrt.StopHandoff; early != (stop != deferral.Post) {
			t.Errorf("%s: stopped by %q", stop, res.Stop)
		}
		if stop == deferral.Pre && (res.Tokens != 0 || res.Text != "") {
			t.Errorf("pre: %d tokens, text %q", res.Tokens, res.Text)
		}
	}
	// Readings change nothing of an answer, and a model without a router makes none.
	s2, err := bare.NewSession(slmrt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	if res := read(t, bare, s2, query); len(res.Readings) != 0 || res.Text != whole.Text {
		t.Errorf("without a router: %d readings, %q; with one %q", len(res.Readings), res.Text, whole.Text)
	}
}

func TestRouterOfOtherWeightsIsRefused(t *testing.T) {
	path := bundlePath(t)
	b, err := bundle.Open(path, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m, err := slmrt.FromBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	root := [32]byte(b.Manifest().Section(bundle.SectionWeights).Root)
	install := func(name string, r *deferral.Router, spoil func([]byte)) error {
		text, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if spoil != nil {
			spoil(text)
		}
		out := filepath.Join(t.TempDir(), name)
		if _, err := b.Replace(out, bundle.Data{Name: bundle.SectionRouter, Bytes: text}, bundle.StageReport{Stage: "router", Version: "1", Report: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
		m, routed, err := slmrt.Load(out, slmrt.LoadOptions{})
		if err != nil {
			return err
		}
		defer routed.Close()
		if m.Router() == nil || m.Router().ID() != r.ID() {
			t.Errorf("%s: router %v", name, m.Router())
		}
		return nil
	}
	if err := install("own.slmb", drawnRouter(t, m, root), nil); err != nil {
		t.Errorf("a router of these weights: %v", err)
	}
	root[0] ^= 1
	if err := install("other.slmb", drawnRouter(t, m, root), nil); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("a router of other weights: %v, want a mismatch", err)
	}
	root[0] ^= 1
	if err := install("newer.slmb", drawnRouter(t, m, root), func(b []byte) { b[8] = 9 }); !errors.Is(err, formats.ErrVersion) {
		t.Errorf("a router of version 9: %v", err)
	}
}

// Damage within the section, under an intact header and manifest, is seen when the
// bundle is loaded and not only by verify: a threshold that lost a bit would answer
// queries that the certificate sends on.
func TestDamagedRouterIsRefused(t *testing.T) {
	b, err := bundle.Open(bundlePath(t), bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m, err := slmrt.FromBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	text, err := drawnRouter(t, m, b.Manifest().Section(bundle.SectionWeights).Root).Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "routed.slmb")
	if _, err := b.Replace(path, bundle.Data{Name: bundle.SectionRouter, Bytes: text}, bundle.StageReport{Stage: "router", Version: "1", Report: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	routed, err := bundle.Open(path, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	section := *routed.Manifest().Section(bundle.SectionRouter)
	if err := routed.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flip := func(at int64) {
		t.Helper()
		var x [1]byte
		if _, err := f.ReadAt(x[:], at); err != nil {
			t.Fatal(err)
		}
		x[0] ^= 1
		if _, err := f.WriteAt(x[:], at); err != nil {
			t.Fatal(err)
		}
	}
	load := func() error {
		_, b, err := slmrt.Load(path, slmrt.LoadOptions{})
		if err == nil {
			b.Close()
		}
		return err
	}
	// The last byte but three is the lowest of a float32 of the last bias.
	for _, at := range []int64{0, 20, 48, section.Length / 2, section.Length - 4, section.Length - 1} {
		flip(section.Offset + at)
		err := load()
		var located *formats.Error
		if !errors.Is(err, formats.ErrCorrupt) || !errors.As(err, &located) || located.File != "routed.slmb" || located.Offset != section.Offset ||
			!strings.Contains(err.Error(), `section "router"`) || !strings.Contains(err.Error(), section.Root.String()) {
			t.Errorf("a flipped bit at byte %d of the section: %v", at, err)
		}
		flip(section.Offset + at)
	}
	if err := load(); err != nil {
		t.Errorf("put right again: %v", err)
	}
}

// A reading must cost next to nothing: under one percent of the prefill's
// multiply-adds, and under a millisecond.
func TestReadingIsCheap(t *testing.T) {
	m := load(t)
	r := drawnRouter(t, m, [32]byte{})
	ids, err := m.EncodeUser(queriesOf(t, 1)[0], time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	prefill := 0
	for _, w := range m.Graph.Weights {
		if w.Role.Matrix() {
			prefill += w.Elems() * len(ids)
		}
	}
	if n := r.MACs(deferral.Pre); n*100 > prefill {
		t.Errorf("a reading takes %d multiply-adds, the prefill %d", n, prefill)
	}
}
