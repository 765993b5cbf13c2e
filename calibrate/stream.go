package calibrate

import (
	"errors"
	"fmt"
	"slices"

	"slmc/internal/exec"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// stream is a model that runs block by block over all sequences: what enters the
// next block, and the weights of the blocks that run now, under the indices of
// the whole graph.
type stream struct {
	env    Env
	m      *model.Model
	seqs   Sequences
	kv     exec.KVFormat
	room   func() (*residuals, error)
	x      *residuals
	kept   map[int]*residuals // what entered a giver that later groups read
	params *exec.Params
}

func newStream(env Env, m *model.Model, seqs Sequences, kv exec.KVFormat, room func() (*residuals, error)) (*stream, error) {
	s := &stream{env: env, m: m, seqs: seqs, kv: kv, room: room, kept: map[int]*residuals{},
		params: &exec.Params{Mats: make([]exec.Matrix, len(m.Weights)), Vecs: make([][]float32, len(m.Weights))}}
	for _, rope := range m.Ropes {
		cos, sin := rope.Tables(longest(seqs))
		s.params.Cos, s.params.Sin = append(s.params.Cos, cos), append(s.params.Sin, sin)
	}
	var err error
	s.x, err = room()
	return s, err
}

func (s *stream) close() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, k := range s.kept {
		errs = append(errs, k.close())
	}
	if s.x != nil {
		errs = append(errs, s.x.close())
	}
	return errors.Join(errs...)
}

// embed starts the stream with an embedding.
func (s *stream) embed(m exec.Matrix) error {
	s.params.Mats[s.m.Embed] = m
	defer func() { s.params.Mats[s.m.Embed] = exec.Matrix{} }()
	o := s.plain(s.section(nil, s.m.Embed))
	for i, q := range s.seqs {
		o.Begin(-1, nil)
		if err := s.x.store(i, o.Embed(q, 0)); err != nil {
			return err
		}
	}
	return o.Err()
}

// load reads weights as float32.
func (s *stream) load(weights []int) (err error) {
	for _, i := range weights {
		if s.m.Weights[i].Role.Matrix() {
			s.params.Mats[i], err = exec.PackMatrix(s.m, i, quant.F32, nil)
		} else {
			s.params.Vecs[i], err = s.m.Tensor(i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// use replaces matrices by their quantized forms.
func (s *stream) use(packed map[int]exec.Matrix) {
	for i, m := range packed {
		s.params.Mats[i] = m
	}
}

// drop forgets the weights of every block below hi that no block from hi on
// needs, and what entered it.
func (s *stream) drop(lo, hi int) error {
	var errs []error
	var need, gone []int
	for j := range hi {
		if lastTaker(s.m.Graph, j) >= hi {
			need = append(need, j)
		} else if j >= lo || s.kept[j] != nil {
			gone = append(gone, j)
			if s.kept[j] != nil {
				errs = append(errs, s.kept[j].close())
				delete(s.kept, j)
			}
		}
	}
	keep := weightsOf(s.m.Graph, need)
	for _, i := range weightsOf(s.m.Graph, gone) {
		if !slices.Contains(keep, i) {
			s.params.Mats[i], s.params.Vecs[i] = exec.Matrix{}, nil
		}
	}
	return errors.Join(errs...)
}

// keep stores what enters giver b in sequence i, for its takers.
func (s *stream) keep(b, i int, x *tensor.Mat) (err error) {
	if s.kept[b] == nil {
		if s.kept[b], err = s.room(); err != nil {
			return err
		}
	}
	return s.kept[b].store(i, x)
}

// section returns the graph with all weights empty but those of blocks and the
// ones named, with caches for these blocks only, and its parameters.
func (s *stream) section(blocks []int, weights ...int) (*model.Graph, *exec.Params) {
	g := s.m.Graph.Clone()
	p := &exec.Params{Mats: make([]exec.Matrix, len(g.Weights)), Vecs: make([][]float32, len(g.Weights)), Cos: s.params.Cos, Sin: s.params.Sin}
	live := append(weightsOf(g, blocks), weights...)
	for i := range g.Weights {
		if slices.Contains(live, i) {
			p.Mats[i], p.Vecs[i] = s.params.Mats[i], s.params.Vecs[i]
			continue
		}
		clear(g.Weights[i].Shape)
		p.Mats[i].Format = quant.F32
	}
	for i := range g.Blocks {
		if !slices.Contains(blocks, i) {
			g.Blocks[i].KVFrom = model.None
		}
	}
	return g, p
}

// plain makes the operations for a section.
func (s *stream) plain(g *model.Graph, p *exec.Params) *exec.Plain {
	return exec.NewPlain(g, p, s.env.Kernel, s.env.Pool, exec.NewCache(g, s.kv, longest(s.seqs)))
}

// passage runs sequences through consecutive blocks.
type passage struct {
	s              *stream
	blocks, givers []int
	g              *model.Graph
	plain          *exec.Plain
	o              *observer
}

func (s *stream) passage(blocks []int, sums map[string]*accumulator) *passage {
	p := &passage{s: s, blocks: blocks, givers: giversBefore(s.m.Graph, blocks)}
	var params *exec.Params
	p.g, params = s.section(append(slices.Clone(p.givers), blocks...))
	p.plain = s.plain(p.g, params)
	p.o = newObserver(p.plain, s.m.Graph, blocks, sums)
	return p
}

// run runs sequence i. With advance the result takes the place of what entered.
func (p *passage) run(i int, advance bool) error {
	for _, j := range p.givers {
		x, err := p.s.kept[j].load(i)
		if err != nil {
			return err
		}
		p.plain.Begin(-1, nil)
		exec.Block(p.g, p.plain, j, p.plain.Begin(j, p.plain.Input(x, 0)), x.R-1)
	}
	x, err := p.s.x.load(i)
	if err != nil {
		return err
	}
	p.o.Begin(-1, nil)
	h := p.plain.Input(x, 0)
	for _, b := range p.blocks {
		if advance && lastTaker(p.s.m.Graph, b) > p.blocks[len(p.blocks)-1] {
			if err := p.s.keep(b, i, h); err != nil {
				return err
			}
		}
		h = exec.Block(p.g, p.o, b, p.o.Begin(b, h), 0)
	}
	if err := p.o.Err(); err != nil {
		return fmt.Errorf("calibration sequence %d: %w", i, err)
	}
	if advance {
		return p.s.x.store(i, h)
	}
	return nil
}

// final returns what enters the output projection in sequence i, once all
// blocks have run and the last norm is loaded.
func (s *stream) final(i int) (*tensor.Mat, error) {
	x, err := s.x.load(i)
	if err != nil {
		return nil, err
	}
	o := s.plain(s.section(nil, s.m.Norm))
	o.Begin(-1, nil)
	y := o.Norm(o.Begin(len(s.m.Blocks), o.Input(x, 0)), s.m.Norm, s.m.Hidden)
	return y, o.Err()
}

// groupEnd returns the end of the group of blocks that starts at lo: the
// shortest run whose weights no block outside of it reads.
func groupEnd(g *model.Graph, lo int) int {
	hi := lo + 1
	for i := lo; i < hi; i++ {
		weights := weightsOf(g, []int{i})
		for j := hi; j < len(g.Blocks); j++ {
			if slices.ContainsFunc(weightsOf(g, []int{j}), func(w int) bool { return slices.Contains(weights, w) }) {
				hi = j + 1
			}
		}
	}
	return hi
}

// weightsOf lists the weights of blocks, each once, in the order of the forward
// pass.
func weightsOf(g *model.Graph, blocks []int) []int {
	var out []int
	add := func(all ...int) {
		for _, i := range all {
			if i != model.None && !slices.Contains(out, i) {
				out = append(out, i)
			}
		}
	}
	for _, n := range blocks {
		b := &g.Blocks[n]
		add(b.AttnNorm)
		for _, l := range []model.Linear{b.K, b.V, b.Q, b.O, b.Gate, b.Up, b.Down} {
			if l.W != model.None {
				add(l.W, l.B)
			}
		}
		add(b.QNorm, b.KNorm, b.PostAttnNorm, b.FFNNorm, b.PostFFNNorm)
	}
	return out
}

// lastTaker is the last block that reads the keys and values of block j.
func lastTaker(g *model.Graph, j int) int {
	last := -1
	for i, b := range g.Blocks {
		if b.KVFrom == j {
			last = i
		}
	}
	return last
}

// giversBefore lists the blocks before the given ones whose keys and values
// they read.
func giversBefore(g *model.Graph, blocks []int) []int {
	var out []int
	for _, b := range blocks {
		if j := g.Blocks[b].KVFrom; j < blocks[0] && !slices.Contains(out, j) {
			out = append(out, j)
		}
	}
	return out
}
