package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"slmc/internal/deferral"
	"slmc/internal/pipeline"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
)

// answers lets a routed bundle answer queries.
func answers(ctx context.Context, path, queries string, most int) (*slmrt.Model, []routertrain.Answered, error) {
	m, _, err := slmrt.Load(path, slmrt.LoadOptions{})
	if err != nil {
		return nil, nil, err
	}
	if m.Router() == nil {
		return nil, nil, fmt.Errorf("%s has no router", path)
	}
	q, err := pipeline.ReadQueries(queries, pipeline.Fields{})
	if err != nil {
		return nil, nil, err
	}
	if most > 0 {
		q = q[:min(most, len(q))]
	}
	rule, err := routertrain.ScorerByName("exact_match")
	if err != nil {
		return nil, nil, err
	}
	a, err := routertrain.Answer(ctx, m, q, routertrain.LabelConfig{
		Header: routertrain.Header{MaxTokens: 256}, Score: routertrain.ByRule(rule), Threads: 2,
	})
	return m, a, err
}

// replay prints one line to compare between machines.
func replay(ctx context.Context, args []string) error {
	if err := want(args, 2); err != nil {
		return err
	}
	most := 0
	if len(args) > 2 {
		most, _ = strconv.Atoi(args[2])
	}
	m, all, err := answers(ctx, args[0], args[1], most)
	if err != nil {
		return err
	}
	row, err := m.Router().Table().Default()
	if err != nil {
		return err
	}
	scores, decisions, deferred, n := sha256.New(), sha256.New(), 0, 0
	for _, a := range all {
		for _, x := range a.Readings {
			n++
			scores.Write([]byte(x.Checkpoint))
			for _, v := range []float32{float32(x.Tokens), x.Wrong, x.Gain, x.Score, x.OOD} {
				scores.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
			}
		}
		s := routertrain.Scored{Readings: a.Readings}
		d, _ := s.Apply(row)
		fmt.Fprintf(decisions, "%v %s\n", d, a.Label.Small.Answer)
		if d {
			deferred++
		}
	}
	fmt.Printf("%d queries, %d readings, %d deferred, scores %x, decisions and answers %x\n", len(all), n, deferred, scores.Sum(nil), decisions.Sum(nil))
	return nil
}

// strange measures the out-of-distribution score: known queries against those
// that nothing was trained on.
func strange(ctx context.Context, args []string) error {
	if err := want(args, 3); err != nil {
		return err
	}
	var score, unknown, wrong, unsure []float64
	var kept [2]int
	var far [2]int
	var count [2]int
	for side, file := range args[1:3] {
		m, all, err := answers(ctx, args[0], file, 0)
		if err != nil {
			return err
		}
		row, err := m.Router().Table().Default()
		if err != nil {
			return err
		}
		for _, a := range all {
			s := routertrain.Scored{Readings: a.Readings}
			x := s.At(deferral.Post)
			score, unknown = append(score, float64(x.OOD)), append(unknown, float64(side))
			wrong, unsure = append(wrong, float64(x.Wrong)), append(unsure, float64(x.Score))
			count[side]++
			if d, _ := s.Apply(row); !d {
				kept[side]++
			}
			if row.Strange(x) {
				far[side]++
			}
		}
	}
	share := func(n, of int) float64 { return 100 * float64(n) / float64(of) }
	fmt.Printf("AUROC of unknown queries: out-of-distribution score %.4f, P(wrong) %.4f, deferral score %.4f\n",
		routertrain.AUROC(score, unknown), routertrain.AUROC(wrong, unknown), routertrain.AUROC(unsure, unknown))
	fmt.Printf("default row: answered here %.1f %% of %d known, %.1f %% of %d unknown; called strange %.1f %% and %.1f %%\n",
		share(kept[0], count[0]), count[0], share(kept[1], count[1]), count[1], share(far[0], count[0]), share(far[1], count[1]))
	return nil
}

// cost times readings: generation with and without them, query by query.
func cost(ctx context.Context, args []string) error {
	if err := want(args, 2); err != nil {
		return err
	}
	m, _, err := slmrt.Load(args[0], slmrt.LoadOptions{})
	if err != nil {
		return err
	}
	q, err := pipeline.ReadQueries(args[1], pipeline.Fields{})
	if err != nil {
		return err
	}
	q = q[:min(500, len(q))]
	s, err := m.NewSession(slmrt.Options{Threads: 1})
	if err != nil {
		return err
	}
	defer s.Close()
	r := m.Router()
	var took, steps []float64
	matrices, prompt := 0, 0
	for _, w := range m.Graph.Weights {
		if w.Role.Matrix() {
			matrices += w.Elems()
		}
	}
	for _, x := range q {
		ids, err := m.EncodeUser(x.Text, time.Time{})
		if err != nil {
			return err
		}
		prompt += len(ids)
		run := func(on func(deferral.Reading) bool) (float64, int, error) {
			s.Truncate(0)
			begin := time.Now()
			res, err := s.Generate(ctx, slmrt.Request{Prompt: ids, MaxTokens: 64, OnReading: on}, nil)
			return time.Since(begin).Seconds(), res.Tokens, err
		}
		without, n, err := run(nil)
		if err != nil {
			return err
		}
		with, _, err := run(func(deferral.Reading) bool { return false })
		if err != nil {
			return err
		}
		took, steps = append(took, with-without), append(steps, (with-without)/float64(n+1))
	}
	slices.Sort(took)
	slices.Sort(steps)
	at := func(x []float64, p float64) float64 { return 1e6 * x[int(p*float64(len(x)-1))] }
	mean := prompt / len(q)
	fmt.Printf("%d queries: readings add %.0f us to an answer at the median, %.0f us at p99; %.0f and %.0f us a token\n", len(q), at(took, 0.5), at(took, 0.99), at(steps, 0.5), at(steps, 0.99))
	for _, c := range deferral.Checkpoints() {
		fmt.Printf("%s: %d multiply-adds, %.2f %% of a prefill of %d tokens\n", c, r.MACs(c), 100*float64(r.MACs(c))/float64(matrices*mean), mean)
	}
	return timeReadings(m, ids(m, q))
}

// ids are the prompts.
func ids(m *slmrt.Model, q []routertrain.Query) (out [][]int32) {
	for _, x := range q {
		if p, err := m.EncodeUser(x.Text, time.Time{}); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// timeReadings times the head itself, over features that are there.
func timeReadings(m *slmrt.Model, prompts [][]int32) error {
	r := m.Router()
	for _, c := range deferral.Checkpoints() {
		if !r.Reads(c) {
			continue
		}
		dim := 0
		if o := r.Opinion(); o != nil {
			dim = o.Dim
		}
		x := make([]float32, r.Shape().Layout(c, dim).Size())
		var w deferral.Work
		var took []float64
		for i := range 20 * len(prompts) {
			x[i%len(x)] += 0.01
			begin := time.Now()
			r.Reading(c, x, 0, 1, &w)
			took = append(took, time.Since(begin).Seconds())
		}
		slices.Sort(took)
		fmt.Printf("%s: the head takes %.0f us at the median, %.0f us at p99\n", c, 1e6*took[len(took)/2], 1e6*took[len(took)*99/100])
	}
	return nil
}
