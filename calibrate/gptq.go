package calibrate

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/quant"
	"slmc/tensor"
)

// GPTQ rounds column by column and lets the columns that are still to come make
// up for each error (Frantar et al., arXiv 2210.17323, section 3.3 and
// algorithm 1): it minimizes tr((W-Q) (H+dI) (W-Q)^T), H = X X^T, greedily.
//
//	e = (w_k - q_k) / U_kk;  w_j -= e U_kj for j > k
//
// with U from inverseFactor. Updates are lazy: within a block of 128 columns at
// once, beyond it as one matrix product for each block.
//
// Where we differ: the scale of a group is not max|w| but IMatrix's search, on
// the weights as they are when the group is entered, each column weighted by
// 1/U_kk^2, which is what an error there costs after all later columns have made
// up for it. With ActOrder columns come by falling H_kk; since the weights of a
// group lie together in storage, their scales are then fixed beforehand.
// Refine adds the steps of refine.go. Weights that never see an activation are
// rounded as by RTN, not set to zero: 2-bit levels have no zero.
type GPTQ struct {
	Kernel   *kernel.Funcs
	ActOrder bool
	Damp     float64 // first damping over the mean of diag H; 0: DefaultDamp
	Refine   int     // most rounds of refinement; 0: none

	block int // columns of a lazy update, 128 unless a test asks for less
}

// DefaultDamp is lambda of arXiv 2210.17323, section 3.3, step 2.
const DefaultDamp = 0.01

const (
	lazyColumns = 128 // B of algorithm 1, a multiple of every GroupSize
	tileRows    = 32  // rows that one goroutine works on at a time
)

// Name implements Algorithm.
func (a GPTQ) Name() string {
	name := "gptq"
	if a.ActOrder {
		name += "-actorder"
	}
	if a.Refine > 0 {
		name += "-refined"
	}
	return name
}

// Needs implements Algorithm.
func (GPTQ) Needs() Needs { return Hessian }

// Encode implements Algorithm. Where the format has 127 levels a side or none,
// or the format is a float, rounding to nearest is what comes out.
func (a GPTQ) Encode(ctx context.Context, p *exec.Pool, m Matrix) ([]byte, error) {
	if err := m.check(Hessian); err != nil {
		return nil, err
	}
	if m.Format.Group() == 0 {
		return RTN{a.Kernel}.Encode(ctx, p, m)
	}
	s, err := a.prepare(p, m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Name, err)
	}
	size := m.Format.RowBytes(m.K)
	out := make([]byte, m.Rows*size)
	errs := make([]error, m.Rows)
	tiles := (m.Rows + tileRows - 1) / tileRows
	p.Run(tiles, 1, func(lo, hi int) {
		t := s.newTile()
		for i := lo; i < hi && ctx.Err() == nil; i++ {
			r0, r1 := i*tileRows, min((i+1)*tileRows, m.Rows)
			t.run(m.W[r0*m.K:r1*m.K], r0, errs)
			for r := r0; r < r1; r++ {
				if errs[r] == nil {
					_, errs[r] = t.encode(out[r*size:r*size:(r+1)*size], r-r0)
				}
			}
		}
	})
	return out, m.firstError(ctx, errs)
}

// solver is what the rows of a matrix share.
type solver struct {
	k       *kernel.Funcs
	m       Matrix
	grid    grid
	block   int
	order   []int     // order[i] is the column that comes i-th
	group   []int     // of the i-th column
	static  bool      // scales are found before the first column
	u       []float32 // [K K], in that order
	weights []float32 // [K] of the scale search, by column
	tails   [][]byte  // for each block, the rows of U beyond it as panels
	refine  *refiner
}

func (a GPTQ) prepare(p *exec.Pool, m Matrix) (*solver, error) {
	K, h := m.K, m.Input.H
	s := &solver{k: a.Kernel, m: m, grid: gridOf(m.Format), block: a.block, static: a.ActOrder || m.Grid != nil}
	if s.block == 0 {
		s.block = lazyColumns
	}
	for k := range K {
		s.order = append(s.order, k)
	}
	if a.ActOrder {
		slices.SortStableFunc(s.order, func(i, j int) int { return cmp.Compare(h[j*K+j], h[i*K+i]) })
	}
	for _, k := range s.order {
		s.group = append(s.group, k/m.Format.Group())
	}
	first := a.Damp
	if first == 0 {
		first = DefaultDamp
	}
	var damp float64
	var err error
	if s.u, damp, err = inverseFactor(p, h, s.order, first); err != nil {
		return nil, err
	}
	s.weights = make([]float32, K)
	for i, k := range s.order {
		d := s.u[i*K+i]
		s.weights[k] = 1 / float32(d*d)
	}
	for b0 := 0; b0+s.block < K; b0 += s.block {
		s.tails = append(s.tails, s.tail(b0, b0+s.block))
	}
	if a.Refine > 0 {
		s.refine = newRefiner(a.Kernel, m, h, damp, a.Refine)
	}
	return s, nil
}

// tail lays the columns from b1 on of the rows [b0, b1) of U as panels.
func (s *solver) tail(b0, b1 int) []byte {
	K, n := s.m.K, b1-b0
	out := make([]byte, 4*panels(K-b1)*kernel.Rows*n)
	for c := b1; c < K; c += kernel.Rows {
		panel := out[4*(c-b1)*n:]
		for k := range n {
			putFloats(panel[4*k*kernel.Rows:], s.u[(b0+k)*K+c:][:min(kernel.Rows, K-c)])
		}
	}
	return out
}

// tile is the work on some rows; one goroutine has one.
type tile struct {
	*solver
	search   *search
	w        []float32     // [tileRows K] with the errors so far made up for, columns in order
	levels   []float32     // [tileRows K], columns as stored
	scales   []tensor.Half // [tileRows groups]
	errors   []float32     // [tileRows block]
	product  []float32     // [tileRows P*16]
	encoding []float32
	refining *refining
}

func (s *solver) newTile() *tile {
	K := s.m.K
	t := &tile{
		solver: s, search: newSearch(s.k, s.grid, s.m.Format.Group()),
		w: make([]float32, tileRows*K), levels: make([]float32, tileRows*K),
		scales: make([]tensor.Half, tileRows*s.groups()),
		errors: make([]float32, tileRows*s.block), product: make([]float32, tileRows*panels(K)*kernel.Rows),
		encoding: make([]float32, K),
	}
	if s.refine != nil {
		t.refining = s.refine.newScratch()
	}
	return t
}

func (s *solver) groups() int { return quant.Groups(s.m.Format, s.m.K) }

// run chooses levels and scales for the rows of w [rows K], the first of which
// is row r0 of the matrix; errs is by row of the matrix.
func (t *tile) run(w []float32, r0 int, errs []error) {
	K := t.m.K
	rows := len(w) / K
	for r := range rows {
		src, dst := w[r*K:(r+1)*K], t.w[r*K:(r+1)*K]
		for i, k := range t.order {
			dst[i] = src[k]
		}
		errs[r0+r] = t.start(src, r)
	}
	for n, b0 := 0, 0; b0 < K; n, b0 = n+1, b0+t.block {
		b1 := min(b0+t.block, K)
		for r := range rows {
			if errs[r0+r] == nil {
				errs[r0+r] = t.columns(r, b0, b1)
			}
		}
		if b1 < K {
			t.update(rows, n, b0, b1)
		}
	}
	if t.refining != nil {
		t.refining.run(w, t.levels, t.scales)
	}
}

// start checks a row and, with static scales, finds them.
func (t *tile) start(w []float32, r int) error {
	G := t.m.Format.Group()
	for g := range t.groups() {
		lo, hi := g*G, min((g+1)*G, len(w))
		s, err := t.search.scale(w[lo:hi], t.weights[lo:hi])
		if err != nil {
			return fmt.Errorf("group %d: %w", g, err)
		}
		t.scales[r*t.groups()+g] = s
	}
	t.m.constrain(t.scales[r*t.groups():][:t.groups()])
	return nil
}

// columns rounds the columns [b0, b1) of row r and spreads each error over the
// rest of them.
func (t *tile) columns(r, b0, b1 int) error {
	K, G := t.m.K, t.m.Format.Group()
	w := t.w[r*K : (r+1)*K]
	scales := t.scales[r*t.groups():][:t.groups()]
	levels := t.levels[r*K : (r+1)*K]
	for i := b0; i < b1; i++ {
		g := t.group[i]
		if !t.static && i%G == 0 {
			var err error
			if scales[g], err = t.search.scale(w[i:min(i+G, K)], t.weights[i:min(i+G, K)]); err != nil {
				return fmt.Errorf("group %d: %w", g, err)
			}
		}
		s := scales[g].Float32()
		l := t.grid.nearest(w[i] * quant.Inverse(s))
		levels[t.order[i]] = l
		e := (w[i] - float32(l*s)) / t.u[i*K+i]
		t.errors[r*t.block+i-b0] = e
		rest := w[i+1 : b1]
		for j, u := range t.u[i*K+i+1 : i*K+b1] {
			rest[j] -= float32(e * u)
		}
	}
	return nil
}

// update takes the errors of the columns [b0, b1), block n, off those from b1
// on.
func (t *tile) update(rows, n, b0, b1 int) {
	K, N := t.m.K, b1-b0
	P := panels(K - b1)
	ld := P * kernel.Rows
	t.k.MatF32(t.product, ld, t.tails[n], t.errors, t.block, rows, N, 0, P)
	for r := range rows {
		w := t.w[r*K+b1 : (r+1)*K]
		for j, d := range t.product[r*ld:][:len(w)] {
			w[j] -= d
		}
	}
}

// encode appends the row form of the tile's row r.
func (t *tile) encode(dst []byte, r int) ([]byte, error) {
	K := t.m.K
	return encodeLevels(dst, t.m.Format, t.levels[r*K:(r+1)*K], t.scales[r*t.groups():][:t.groups()], t.encoding)
}

// ProxyLoss is tr((W-Q) H (W-Q)^T) over tr(W H W^T): the layer's relative
// squared output error on the calibration text, for row forms of m. It is NaN
// when W H W^T is 0.
func ProxyLoss(p *exec.Pool, m Matrix, rows []byte) float64 {
	e, s := proxy(p, m, rows)
	if s == 0 {
		return math.NaN()
	}
	return e / s
}

// proxy returns the two traces.
func proxy(p *exec.Pool, m Matrix, rows []byte) (loss, size float64) {
	n := m.Format.RowBytes(m.K)
	losses, sizes := make([]float64, m.Rows), make([]float64, m.Rows)
	p.Run(m.Rows, 1, func(lo, hi int) {
		d := make([]float32, m.K)
		for r := lo; r < hi; r++ {
			w := m.W[r*m.K : (r+1)*m.K]
			m.Format.Decode(d, rows[r*n:(r+1)*n])
			for k := range d {
				d[k] = w[k] - d[k]
			}
			losses[r], sizes[r] = quadratic(m.Input.H, d), quadratic(m.Input.H, w)
		}
	})
	for r := range losses {
		loss, size = loss+losses[r], size+sizes[r]
	}
	return loss, size
}

// quadratic is x^T H x.
func quadratic(h []float64, x []float32) float64 {
	K := len(x)
	sum := 0.0
	for i, v := range x {
		row, part := h[i*K:i*K+i], 0.0
		for j, c := range row {
			part += float64(c * float64(x[j]))
		}
		sum += float64(float64(v) * (2*part + float64(h[i*K+i]*float64(v))))
	}
	return sum
}
