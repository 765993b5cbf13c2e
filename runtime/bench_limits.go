package slmrt

import (
	"time"

	"slmc/internal/exec"
	"slmc/quant"
)

// matrices calls each with the matrices that one decode step multiplies by, in
// order, shared ones as often as they run.
func (m *Model) matrices(each func(w exec.Matrix)) {
	for _, b := range m.Graph.Blocks {
		for _, l := range []int{b.Q.W, b.K.W, b.V.W, b.O.W, b.Gate.W, b.Up.W, b.Down.W} {
			if l >= 0 {
				each(m.Params.Mats[l])
			}
		}
	}
	each(m.Params.Mats[m.Graph.Head.W])
}

// bytesPerToken counts the panels that one decode step reads: all matrices but
// an untied embedding, of which it reads one row.
func (m *Model) bytesPerToken() int64 {
	n := int64(0)
	m.matrices(func(w exec.Matrix) { n += int64(len(w.Panels)) })
	return n
}

// opsPerToken counts the multiplications and additions of the matrices for one
// token of a prompt, without the head, which only its last token needs.
func (m *Model) opsPerToken() int64 {
	n := int64(0)
	m.matrices(func(w exec.Matrix) { n += 2 * int64(w.Rows) * int64(w.Cols) })
	head := m.Params.Mats[m.Graph.Head.W]
	return n - 2*int64(head.Rows)*int64(head.Cols)
}

// kvBytes counts what the attention of the token at position pos reads.
func (m *Model) kvBytes(o Options, pos int) int64 {
	n := int64(0)
	for _, b := range m.Graph.Blocks {
		seen := pos + 1
		if b.Window > 0 {
			seen = min(seen, b.Window)
		}
		n += int64(seen) * int64(2*b.KVHeads*o.KV.VectorBytes(b.HeadDim))
	}
	return n
}

// readRate is how many bytes a second the session's threads read of the very
// bytes that a decode step reads, with plain loads: the best of three passes.
func (s *Session) readRate() float64 {
	var all [][]byte
	const piece = 64 << 10
	total := 0
	s.m.matrices(func(w exec.Matrix) {
		size := w.Format.PanelBytes(w.Cols) * quant.Panels(w.Rows)
		for at := 0; at < size; at += piece {
			all = append(all, w.Panels[at:min(at+piece, size)])
		}
		total += size
	})
	best := 0.0
	pass := func() error {
		begin := time.Now()
		s.pool.Run(len(all), 1, func(lo, hi int) {
			for _, b := range all[lo:hi] {
				s.f.Read(b)
			}
		})
		best = max(best, float64(total)/time.Since(begin).Seconds())
		return nil
	}
	for range 3 {
		if s.m.guard != nil {
			if s.m.guard(pass) != nil {
				return best
			}
			continue
		}
		_ = pass()
	}
	return best
}

// int8Rate is how many 8-bit multiplications and additions a second the
// session's threads do at most: the best of three passes of about a
// millisecond a thread.
func (s *Session) int8Rate() float64 {
	rounds := 1000
	for {
		begin := time.Now()
		s.f.Int8(rounds)
		if time.Since(begin) > time.Millisecond/4 || rounds > 1<<28 {
			break
		}
		rounds *= 2
	}
	best := 0.0
	for range 3 {
		parts := 8 * s.o.Threads
		ops := s.f.Int8(rounds) * int64(parts)
		begin := time.Now()
		s.pool.Run(parts, 1, func(lo, hi int) {
			for range hi - lo {
				s.f.Int8(rounds)
			}
		})
		best = max(best, float64(ops)/time.Since(begin).Seconds())
	}
	return best
}
