// Package kvshare rewrites a model so that some blocks (takers) read the keys
// and values of an earlier block (their giver) and compute none: less cache,
// and less prefill where the last blocks take. It chooses the map, rewrites the
// graph and heals the weights.
//
// The fixed maps are those of the literature: the last blocks read the last
// giver, as Apple's on-device model (arXiv 2507.13575, section 2.1) and Gemma
// 3n have it; pairs, as cross-layer attention has them (CLA2, arXiv
// 2405.12981, section 2). We differ in that all of them keep attention types
// apart: a block of a sliding window reads a giver of that window and rotary
// table, as in Gemma 3n.
package kvshare

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"slmc/model"
)

// ErrPlan is a map that can not be: the error says why.
var ErrPlan = errors.New("KV sharing")

// Plan maps takers to givers, both indices of Graph.Blocks.
type Plan map[int]int

// Takers lists the takers in order.
func (p Plan) Takers() []int { return slices.Sorted(maps.Keys(p)) }

// String is the form that Parse reads as a map: "6-9:5,3:1". Runs of takers of
// one giver are written together.
func (p Plan) String() string {
	var parts []string
	takers := p.Takers()
	for i := 0; i < len(takers); {
		end := i + 1
		for end < len(takers) && takers[end] == takers[end-1]+1 && p[takers[end]] == p[takers[i]] {
			end++
		}
		first, last := takers[i], takers[end-1]
		run := strconv.Itoa(first)
		// A lone pair is written as a run, since "5:3" is a ratio.
		if last > first || len(takers) == 1 {
			run += "-" + strconv.Itoa(last)
		}
		parts = append(parts, fmt.Sprintf("%s:%d", run, p[first]))
		i = end
	}
	return strings.Join(parts, ",")
}

// Check reports the first reason why the blocks of g can not share by p.
func (p Plan) Check(g *model.Graph) error {
	if err := g.CheckKV(p); err != nil {
		return fmt.Errorf("%w: %w", ErrPlan, err)
	}
	return nil
}

// Of is the plan that g was rewritten by; empty without sharing.
func Of(g *model.Graph) Plan { return g.KVMap() }

// Kind is a way to choose a plan.
type Kind string

// The kinds, by the form that Parse reads.
const (
	Tail   Kind = "tail"    // "5:3": of every 8 blocks the last 3, at the end of the model
	Last   Kind = "gemma3n" // "gemma3n:N": the last N
	Pairs  Kind = "cla2"    // "cla2": every second block reads the one before it
	Mapped Kind = "map"     // "6-9:5,3:1"
	Search Kind = "search"  // "search:0.4": the best map found for that share of takers
)

// Spec is a plan as it is asked for, before the model is known.
type Spec struct {
	Kind       Kind
	Give, Take int     // of Tail
	N          int     // takers of Last
	Ratio      float64 // takers per block, of Search
	Map        Plan    // of Mapped
}

// maxBlock bounds the numbers of a form: no model has as many blocks.
const maxBlock = 1 << 12

// Forms describes what Parse reads, for messages.
const Forms = "GIVE:TAKE such as 5:3, cla2, gemma3n:N, search:RATIO, or a map such as 6-9:5,3:1"

// Parse reads one of the forms. A lone "A:B" is a ratio; one block alone is
// mapped by "5-5:3".
func Parse(text string) (Spec, error) {
	fail := func(why string) (Spec, error) {
		return Spec{}, fmt.Errorf("%w: %q: %s; want %s", ErrPlan, text, why, Forms)
	}
	name, arg, _ := strings.Cut(text, ":")
	switch Kind(name) {
	case Pairs:
		if arg != "" || strings.Contains(text, ":") {
			return fail("cla2 has no argument")
		}
		return Spec{Kind: Pairs}, nil
	case Last:
		n, ok := number(arg)
		if !ok || n == 0 {
			return fail("the number of takers is missing")
		}
		return Spec{Kind: Last, N: n}, nil
	case Search:
		r, err := strconv.ParseFloat(arg, 64)
		if err != nil || !(r > 0 && r < 1) {
			return fail("the share of takers must lie between 0 and 1")
		}
		return Spec{Kind: Search, Ratio: r}, nil
	}
	if !strings.ContainsAny(text, "-,") {
		give, ok1 := number(name)
		take, ok2 := number(arg)
		if !ok1 || !ok2 || give == 0 || take == 0 {
			return fail("not a known form")
		}
		return Spec{Kind: Tail, Give: give, Take: take}, nil
	}
	p := Plan{}
	for part := range strings.SplitSeq(text, ",") {
		if err := p.parseRun(part); err != nil {
			return fail(err.Error())
		}
	}
	return Spec{Kind: Mapped, Map: p}, nil
}

// parseRun adds "6-9:5" or "6:5".
func (p Plan) parseRun(part string) error {
	run, giver, ok := strings.Cut(part, ":")
	first, last, isRun := strings.Cut(run, "-")
	if !isRun {
		last = first
	}
	a, ok1 := number(first)
	b, ok2 := number(last)
	from, ok3 := number(giver)
	if !ok || !ok1 || !ok2 || !ok3 || b < a {
		return fmt.Errorf("%q is not FIRST-LAST:GIVER", part)
	}
	for i := a; i <= b; i++ {
		if _, again := p[i]; again {
			return fmt.Errorf("block %d is mapped twice", i)
		}
		p[i] = from
	}
	return nil
}

// number reads a plain decimal number below maxBlock.
func number(s string) (int, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n < maxBlock
}

// String is the form that Parse reads.
func (s Spec) String() string {
	switch s.Kind {
	case Tail:
		return fmt.Sprintf("%d:%d", s.Give, s.Take)
	case Last:
		return fmt.Sprintf("%s:%d", Last, s.N)
	case Search:
		return fmt.Sprintf("%s:%s", Search, strconv.FormatFloat(s.Ratio, 'g', -1, 64))
	case Mapped:
		return s.Map.String()
	}
	return string(s.Kind)
}

// Count is the number of takers that a Tail or a Search asks for of L blocks:
// the nearest whole number, a half up, at least 1 and at most L-1. 5:3 of 10
// blocks is 3.75, so 4.
func (s Spec) Count(L int) int {
	share := s.Ratio
	if s.Kind == Tail {
		share = float64(s.Take) / float64(s.Give+s.Take)
	}
	return max(1, min(L-1, int(math.Floor(share*float64(L)+0.5))))
}

// Plan applies the spec to a graph. A Search has no plan before it is run.
func (s Spec) Plan(g *model.Graph) (Plan, error) {
	if len(g.Blocks) < 2 {
		return nil, fmt.Errorf("%w: the model has %d blocks, at least 2 are wanted", ErrPlan, len(g.Blocks))
	}
	p := s.Map
	var err error
	switch s.Kind {
	case Tail:
		p, err = last(g, s.Count(len(g.Blocks)))
	case Last:
		p, err = last(g, s.N)
	case Pairs:
		p = pairs(g)
	case Search:
		err = fmt.Errorf("%w: %s has no plan before it is run on examples", ErrPlan, s)
	}
	if err != nil {
		return nil, err
	}
	if err := p.Check(g); err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	return p, nil
}

// last lets the last n blocks read the last block of their attention type
// before them.
func last(g *model.Graph, n int) (Plan, error) {
	first := len(g.Blocks) - n
	if first < 1 {
		return nil, fmt.Errorf("%w: %d of %d blocks would take, none is left to give", ErrPlan, n, len(g.Blocks))
	}
	p := Plan{}
	for i := first; i < len(g.Blocks); i++ {
		giver := first - 1
		for giver >= 0 && (g.Blocks[giver].KVFrom != giver || g.Blocks[i].CanRead(&g.Blocks[giver]) != nil) {
			giver--
		}
		if giver < 0 {
			return nil, fmt.Errorf("%w: block %d finds no giver of its attention type below block %d", ErrPlan, i, first)
		}
		p[i] = giver
	}
	return p, nil
}

// pairs lets every second block of an attention type read the one before it.
func pairs(g *model.Graph) Plan {
	p := Plan{}
	taken := make([]bool, len(g.Blocks))
	for i := range g.Blocks {
		for j := i + 1; j < len(g.Blocks) && !taken[i] && g.Blocks[i].KVFrom == i; j++ {
			if !taken[j] && g.Blocks[j].KVFrom == j && g.Blocks[j].CanRead(&g.Blocks[i]) == nil {
				p[j], taken[i], taken[j] = i, true, true
			}
		}
	}
	return p
}

// MarshalText implements encoding.TextMarshaler.
func (p Plan) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Plan) UnmarshalText(text []byte) error {
	s, err := Parse(string(text))
	if err == nil && s.Kind != Mapped {
		err = fmt.Errorf("%w: %q is no map of blocks such as 6-9:5", ErrPlan, text)
	}
	*p = s.Map
	return err
}
