package calibrate

import (
	"errors"
	"fmt"
	"math"

	"slmc/internal/exec"
)

// errPivot is returned by cholesky for a matrix that is not positive definite.
var errPivot = errors.New("not positive definite")

// inverseFactor returns the upper triangular U [K K] with U^T U = (H + d I)^-1,
// the factor that GPTQ takes its errors from (arXiv 2210.17323, section 3.3,
// step 3), in the order perm of the columns (perm[i] is the column of H that
// comes i-th), and the damping d that it took: first*mean(diag H), ten times as
// much each time the factorization fails.
//
// Where the paper inverts H and factors the inverse, this factors H backwards,
// H = M M^T with M upper triangular, and inverts M: U = M^-1, one third of the
// work and a smaller error.
func inverseFactor(p *exec.Pool, h []float64, perm []int, first float64) (u []float32, damp float64, err error) {
	K := len(perm)
	mean := 0.0
	for i := range K {
		mean += h[i*K+i] / float64(K)
	}
	if !(mean >= 0 && mean <= math.MaxFloat64) {
		return nil, 0, fmt.Errorf("hessian with a mean diagonal of %g: %w", mean, errPivot)
	}
	if mean == 0 { // never active: any positive diagonal says that all errors are alike
		mean = 1
	}
	l := make([]float64, K*K)
	for try := first; try <= 1e3; try *= 10 {
		damp = float64(try * mean)
		for i := range K {
			for j := range i + 1 {
				l[i*K+j] = h[perm[K-1-i]*K+perm[K-1-j]]
			}
			l[i*K+i] += damp
		}
		if err = cholesky(p, l, K, 1e-10*mean); err == nil {
			return invertFlipped(p, l, K), damp, nil
		}
	}
	return nil, damp, fmt.Errorf("hessian with damping %g: %w", damp, err)
}

// cholesky overwrites the lower triangle of the symmetric a [K K] with L,
// a = L L^T, column by column. A pivot below tiny is errPivot.
func cholesky(p *exec.Pool, a []float64, K int, tiny float64) error {
	for j := range K {
		rj := a[j*K:][:j]
		d := a[j*K+j] - dot(rj, rj)
		if !(d > tiny) {
			return fmt.Errorf("pivot %d is %g: %w", j, d, errPivot)
		}
		d = math.Sqrt(d)
		a[j*K+j] = d
		p.Run(K-j-1, 1+(1<<15)/(j+1), func(lo, hi int) {
			for i := j + 1 + lo; i < j+1+hi; i++ {
				a[i*K+j] = (a[i*K+j] - dot(a[i*K:][:j], rj)) / d
			}
		})
	}
	return nil
}

// invertFlipped returns the inverse of the lower triangular l, rows and columns
// in reverse order: an upper triangular matrix, rounded to float32.
func invertFlipped(p *exec.Pool, l []float64, K int) []float32 {
	u := make([]float32, K*K)
	p.Run(K, 1+(1<<16)/(K*K), func(lo, hi int) {
		x := make([]float64, K) // column j of the inverse, from j down
		for n := lo; n < hi; n++ {
			j := K - 1 - n
			x[j] = 1 / l[j*K+j]
			u[(K-1-j)*K+K-1-j] = float32(x[j])
			for i := j + 1; i < K; i++ {
				x[i] = -dot(l[i*K+j:][:i-j], x[j:i]) / l[i*K+i]
				u[(K-1-i)*K+K-1-j] = float32(x[i])
			}
		}
	})
	return u
}

// dot is the sum of a[i]*b[i] in four lanes, whose products are rounded before
// they are added: the same bits whether or not the CPU fuses.
func dot(a, b []float64) float64 {
	var s0, s1, s2, s3 float64
	b = b[:len(a)]
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0 += float64(a[i] * b[i])
		s1 += float64(a[i+1] * b[i+1])
		s2 += float64(a[i+2] * b[i+2])
		s3 += float64(a[i+3] * b[i+3])
	}
	for ; i < len(a); i++ {
		s0 += float64(a[i] * b[i])
	}
	return (s0 + s2) + (s1 + s3)
}
