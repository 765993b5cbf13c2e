package convert

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/model"
)

// GGUFFile is a model in llama.cpp's terms, ready for gguf.Write once the
// caller has added the vocabulary's metadata.
type GGUFFile struct {
	KVs     []gguf.KV
	Tensors []gguf.Tensor
	Weights []int // the weight of each tensor; model.None for rotary factors
	// Notes say where the file is not exactly the model: settings that
	// llama.cpp fixes otherwise.
	Notes []string
}

// GGUF describes m as a GGUF file of type typ. typeOf chooses the type of each
// matrix by the name that it gets; nil gives all of them typ. Vectors are F32.
// Blocks that share weights are written out one by one. What llama.cpp's graph
// of the architecture can't express is ErrUnsupported.
func GGUF(m *model.Model, name string, typ gguf.Type, typeOf func(tensor string, w model.Weight) (gguf.Type, error)) (*GGUFFile, error) {
	if typeOf == nil {
		typeOf = func(string, model.Weight) (gguf.Type, error) { return typ, nil }
	}
	e := &ggufExport{m: m, typ: typ, typeOf: typeOf, out: &GGUFFile{}}
	for _, a := range model.Archs() {
		if a.Name == m.Arch {
			e.arch = a.GGUF
		}
	}
	params, err := e.params(name)
	if err != nil {
		return nil, formats.Unsupported(name, "", -1, "export to GGUF: %v", err)
	}
	if e.out.KVs, err = params.KVs(); err != nil {
		return nil, formats.Unsupported(name, "", -1, "export to GGUF: %v", err)
	}
	return e.out, e.tensors()
}

// ggufExport is the state of one export.
type ggufExport struct {
	m    *model.Model
	arch string
	typ  gguf.Type
	out  *GGUFFile

	typeOf func(tensor string, w model.Weight) (gguf.Type, error)
}

func (e *ggufExport) note(format string, args ...any) {
	e.out.Notes = append(e.out.Notes, fmt.Sprintf(format, args...))
}

// params collects the settings; all blocks must agree on what has one key.
func (e *ggufExport) params(name string) (gguf.ArchParams, error) {
	g := e.m.Graph
	first := g.Blocks[0]
	p := gguf.ArchParams{
		Arch: e.arch, Name: name, Type: e.typ, Vocab: g.Vocab, Context: g.Context, Embedding: g.Hidden, Blocks: len(g.Blocks), FFN: first.FFN,
		Heads: first.Heads, KVHeads: first.KVHeads, HeadDim: first.HeadDim, NormEps: decimal(g.NormEps),
		QueryScale: float64(first.AttnScale), AttnSoftCap: decimal(first.AttnCap), FinalSoftCap: decimal(g.LogitCap),
	}
	full, local := model.None, model.None // ropes
	for i, b := range g.Blocks {
		if b.KVFrom != i {
			return p, fmt.Errorf("block %d reads the keys and values of block %d, llama.cpp has no such sharing", i, b.KVFrom)
		}
		if b.FFN != first.FFN || b.Heads != first.Heads || b.KVHeads != first.KVHeads || b.HeadDim != first.HeadDim ||
			b.AttnScale != first.AttnScale || b.AttnCap != first.AttnCap || b.Act != first.Act {
			return p, fmt.Errorf("block %d has other dimensions or settings than block 0", i)
		}
		rope := &full
		if b.Window > 0 {
			if p.SlidingWindow != 0 && p.SlidingWindow != b.Window {
				return p, fmt.Errorf("windows of %d and %d, llama.cpp has one", p.SlidingWindow, b.Window)
			}
			p.SlidingWindow, rope = b.Window, &local
		}
		if b.Rope == model.None || *rope != model.None && *rope != b.Rope {
			return p, fmt.Errorf("block %d has other rotary frequencies than those before it, or none", i)
		}
		*rope = b.Rope
		p.Sliding = append(p.Sliding, b.Window > 0)
	}
	if p.SlidingWindow == 0 {
		p.Sliding = nil
	}
	if full == model.None {
		full = local
	}
	e.checkScale()
	return p, e.rope(&p, full, local)
}

// decimal is the number that the shortest decimal of a float32 names: 1e-5,
// not 9.99999974738e-06.
func decimal(x float32) float64 {
	f, _ := strconv.ParseFloat(strconv.FormatFloat(float64(x), 'g', -1, 32), 64)
	return f
}

// checkScale notes an embedding scale that llama.cpp's graph does not have.
func (e *ggufExport) checkScale() {
	want := float32(1)
	if strings.HasPrefix(e.arch, "gemma") {
		want = float32(math.Sqrt(float64(e.m.Hidden)))
	}
	if have := e.m.EmbedScale; have != want {
		e.note("embeddings are scaled by %g, llama.cpp scales them by %g", have, want)
	}
}

// rope sets base and linear factor; any other scaling goes into a tensor of
// factors, which llama.cpp reads for llama only.
func (e *ggufExport) rope(p *gguf.ArchParams, full, local int) error {
	r := e.m.Ropes[full]
	p.RopeBase = r.Base
	if r.Base == 0 {
		return fmt.Errorf("the base of the rotary frequencies is not known")
	}
	if local != model.None && local != full {
		p.RopeBaseLocal = e.m.Ropes[local].Base
		for _, f := range e.m.Ropes[local].Factors() {
			if math.Abs(float64(f)-1) > 1e-6 {
				return fmt.Errorf("rotary frequencies of windowed layers are scaled by %g, llama.cpp does not scale them", f)
			}
		}
	}
	factors := r.Factors()
	least, most := slices.Min(factors), slices.Max(factors)
	switch {
	case most-least > 1e-6*least && e.arch != "llama":
		return fmt.Errorf("rotary frequencies scaled by %g to %g, llama.cpp knows one factor for %s", least, most, e.arch)
	case most-least > 1e-6*least:
		e.out.Tensors = append(e.out.Tensors, gguf.Tensor{Name: ropeFactors, Shape: []int{len(factors)}, Type: gguf.F32,
			Read: func(off int, dst []float32) error { copy(dst, factors[off:]); return nil }})
		e.out.Weights = append(e.out.Weights, model.None)
	case math.Abs(float64(factors[0])-1) > 1e-6:
		p.RopeLinear = decimal(factors[0])
	}
	return nil
}

// tensors lists the embedding, the blocks, the final norm and the head.
func (e *ggufExport) tensors() error {
	g := e.m.Graph
	names, weights := []string{g.Weights[g.Embed].Name}, []int{g.Embed}
	for i, b := range g.Blocks {
		for _, w := range []int{b.AttnNorm, b.Q.W, b.Q.B, b.K.W, b.K.B, b.V.W, b.V.B, b.O.W, b.O.B, b.QNorm, b.KNorm, b.PostAttnNorm,
			b.FFNNorm, b.Gate.W, b.Gate.B, b.Up.W, b.Up.B, b.Down.W, b.Down.B, b.PostFFNNorm} {
			if w != model.None {
				_, part, _ := strings.Cut(strings.TrimPrefix(g.Weights[w].Name, "blk."), ".")
				names, weights = append(names, fmt.Sprintf("blk.%d.%s", i, part)), append(weights, w)
			}
		}
	}
	names, weights = append(names, g.Weights[g.Norm].Name), append(weights, g.Norm)
	if !g.Tied() {
		names, weights = append(names, g.Weights[g.Head.W].Name), append(weights, g.Head.W)
	}
	for i, name := range names {
		if err := e.add(weights[i], name); err != nil {
			return err
		}
	}
	return nil
}

func (e *ggufExport) add(i int, name string) (err error) {
	w := e.m.Weights[i]
	if err := gguf.CheckTensor(e.arch, name); err != nil {
		return formats.Unsupported("", name, -1, "export to GGUF: %v", err)
	}
	t := gguf.Tensor{Name: name, Shape: w.Shape, Type: gguf.F32, Read: func(off int, dst []float32) error { return e.m.Values.Read(i, off, dst) }}
	if w.Role.Matrix() {
		if t.Type, err = e.typeOf(name, w); err != nil {
			return err
		}
	}
	if interleaved, _ := gguf.Interleaved(e.arch); interleaved {
		t.Heads = e.ropeHeads(i)
	}
	e.out.Tensors, e.out.Weights = append(e.out.Tensors, t), append(e.out.Weights, i)
	return nil
}

// ropeHeads is the number of rotary heads of a q or k weight or bias, 0 of any
// other. It is read off the blocks, since a graph from a bundle has no more.
func (e *ggufExport) ropeHeads(w int) int {
	for _, b := range e.m.Blocks {
		switch w {
		case b.Q.W, b.Q.B:
			return b.Heads
		case b.K.W, b.K.B:
			return b.KVHeads
		}
	}
	return 0
}
