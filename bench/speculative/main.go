// Command speculative measures speculative decoding: a bundle alone and with
// proposals of a draft, of a lookup, and of both, on the same prompts in
// alternation. It fails when any token differs.
//
//	go run ./bench/speculative TARGET.slmb [DRAFT.slmb PROMPTS.jsonl [N]]
//
// With TARGET alone it prints what a pass costs by its number of tokens. A line of
// PROMPTS is {"query": text}; the first N, 200 by default, are asked
// through the chat template and answered greedily, 64 tokens at most.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	goruntime "runtime"
	"slices"
	"strconv"
	"time"

	slmrt "slmc/runtime"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// source is one way to propose tokens, with what it did.
type source struct {
	name    string
	o       slmrt.Speculation
	sp      *slmrt.Speculator
	seconds []float64 // by prompt
	sum     slmrt.Speculated
}

func run(args []string) error {
	if len(args) == 2 || len(args) == 0 {
		return errors.New("usage: speculative TARGET.slmb [DRAFT.slmb PROMPTS.jsonl [N]]")
	}
	n := 200
	if len(args) > 3 {
		var err error
		if n, err = strconv.Atoi(args[3]); err != nil {
			return err
		}
	}
	m, _, err := slmrt.Load(args[0], slmrt.LoadOptions{})
	if err != nil {
		return err
	}
	defer m.Close()
	if len(args) == 1 {
		for threads := 1; threads <= goruntime.GOMAXPROCS(0); threads++ {
			if err := widths(m, slmrt.Options{Threads: threads, Context: 128}); err != nil {
				return err
			}
		}
		return nil
	}
	draft, _, err := slmrt.Load(args[1], slmrt.LoadOptions{})
	if err != nil {
		return err
	}
	defer draft.Close()
	prompts, err := read(m, args[2], n)
	if err != nil {
		return err
	}
	for threads := 1; threads <= goruntime.GOMAXPROCS(0); threads++ {
		o := slmrt.Options{Threads: threads}
		if err := widths(m, o); err != nil {
			return err
		}
		if err := measure(m, draft, o, prompts); err != nil {
			return err
		}
	}
	return nil
}

func read(m *slmrt.Model, path string, n int) (prompts [][]int32, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for in.Scan() && len(prompts) < n {
		var row struct{ Query string }
		if err := json.Unmarshal(in.Bytes(), &row); err != nil {
			return nil, err
		}
		ids, err := m.EncodeUser(row.Query, time.Time{})
		if err != nil {
			return nil, err
		}
		prompts = append(prompts, ids)
	}
	return prompts, in.Err()
}

// widths prints what a pass costs by its number of tokens: what proposals must
// earn.
func widths(m *slmrt.Model, o slmrt.Options) error {
	s, err := m.NewSession(o)
	if err != nil {
		return err
	}
	defer s.Close()
	ids := make([]int32, 64)
	for i := range ids {
		ids[i] = int32(i % m.Graph.Vocab)
	}
	fmt.Printf("%d threads, ms of a pass:", o.Threads)
	for _, w := range []int{1, 2, 3, 5, 9} {
		var ms []float64
		for range 20 {
			s.Truncate(0)
			if _, err := s.Feed(context.Background(), ids[:32]); err != nil {
				return err
			}
			begin := time.Now()
			if err := s.Logits(context.Background(), ids[32:32+w], func(int, []float32) error { return nil }); err != nil {
				return err
			}
			ms = append(ms, 1e3*time.Since(begin).Seconds())
		}
		slices.Sort(ms)
		fmt.Printf("  %d: %.2f", w, ms[len(ms)/2])
	}
	fmt.Println()
	return nil
}

func measure(m, draft *slmrt.Model, o slmrt.Options, prompts [][]int32) error {
	sources := []*source{
		{name: "none"},
		{name: "draft, 2 tokens", o: slmrt.Speculation{Draft: draft, Options: o, Tokens: 2}},
		{name: "draft, 4 tokens", o: slmrt.Speculation{Draft: draft, Options: o, Tokens: 4}},
		{name: "draft, 8 tokens", o: slmrt.Speculation{Draft: draft, Options: o, Tokens: 8}},
		{name: "lookup 2, 4 tokens", o: slmrt.Speculation{Lookup: 2, Tokens: 4}},
		{name: "lookup 3, 8 tokens", o: slmrt.Speculation{Lookup: 3, Tokens: 8}},
		{name: "lookup 2 and draft, 4 tokens", o: slmrt.Speculation{Lookup: 2, Draft: draft, Options: o, Tokens: 4}},
	}
	s, err := m.NewSession(o)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, c := range sources[1:] {
		if c.sp, err = slmrt.NewSpeculator(m, c.o); err != nil {
			return err
		}
		defer c.sp.Close()
	}
	tokens := 0
	for _, p := range prompts {
		var want []int32
		for i, c := range sources {
			s.Truncate(0)
			begin := time.Now()
			res, err := s.Generate(context.Background(), slmrt.Request{Prompt: p, MaxTokens: 64, Speculate: c.sp}, nil)
			if err != nil {
				return err
			}
			c.seconds = append(c.seconds, time.Since(begin).Seconds())
			if i == 0 {
				want, tokens = res.IDs, tokens+len(res.IDs)
			} else if !slices.Equal(res.IDs, want) {
				return fmt.Errorf("%s: other tokens than without", c.name)
			}
			if x := res.Speculation; x != nil {
				c.sum.Proposed, c.sum.Accepted, c.sum.Passes = c.sum.Proposed+x.Proposed, c.sum.Accepted+x.Accepted, c.sum.Passes+x.Passes
			}
		}
	}
	fmt.Printf("| %d threads, %d prompts, %d tokens | proposed | accepted | tokens a pass | time, median of ratios | of totals |\n|---|---|---|---|---|---|\n", o.Threads, len(prompts), tokens)
	for _, c := range sources {
		ratios, with, without := []float64{}, 0.0, 0.0
		for i, t := range c.seconds {
			ratios = append(ratios, sources[0].seconds[i]/t)
			with, without = with+t, without+sources[0].seconds[i]
		}
		slices.Sort(ratios)
		x := c.sum
		fmt.Printf("| %s | %d | %d (%.0f %%) | %.2f | %.2f x | %.2f x |\n", c.name, x.Proposed, x.Accepted, 100*float64(x.Accepted)/float64(max(1, x.Proposed)),
			max(1, float64(x.Accepted+x.Passes)/float64(max(1, x.Passes))), ratios[len(ratios)/2], without/with)
	}
	return nil
}
