package audit

import "math"

// EProcess watches a certificate's promise, mean loss <= bound, on audited
// queries, and may be looked at after every one of them: by Ville's inequality
// a wealth that ever reaches 1/alpha is seen with probability alpha at most
// while the promise holds, however often one looks.
//
// It is the betting martingale of Waudby-Smith and Ramdas (arXiv 2010.09686,
// section 4) for losses 0 and 1: each bet lambda multiplies its wealth by
// 1 + lambda (x - bound). Where they tune lambda as they go, we hold one stake in
// each of a grid of constant bets and watch the mean, which is an e-process too and
// depends on the counts only; at most a factor of the grid's size is lost.
type EProcess struct {
	bound  float64
	n, hit int
	max    float64 // largest log wealth
}

// bets is the size of the grid.
const bets = 24

// NewEProcess tests mean loss <= bound, 0 < bound < 1.
func NewEProcess(bound float64) *EProcess { return &EProcess{bound: bound} }

// Add takes the next audited query.
func (e *EProcess) Add(loss bool) {
	e.n++
	if loss {
		e.hit++
	}
	e.max = max(e.max, logWealth(e.bound, e.n, e.hit))
}

// N is the number of queries, Losses those with a loss.
func (e *EProcess) N() int { return e.n }

// Losses is the number of queries with a loss.
func (e *EProcess) Losses() int { return e.hit }

// LogWealth is the natural logarithm of the wealth now, and LogMax of the
// largest so far: what is compared with -ln alpha.
func (e *EProcess) LogWealth() float64 { return logWealth(e.bound, e.n, e.hit) }

// LogMax is the natural logarithm of the largest wealth so far.
func (e *EProcess) LogMax() float64 { return e.max }

// Interval holds the mean loss at every time at once with probability 1-alpha:
// the bounds that the same bets, for and against, do not reject.
func (e *EProcess) Interval(alpha float64) (low, high float64) {
	return lowest(e.n, e.hit, alpha/2), 1 - lowest(e.n, e.n-e.hit, alpha/2)
}

// lowest is the smallest mean that is not rejected in favour of a larger one.
func lowest(n, hit int, alpha float64) float64 {
	if hit == 0 {
		return 0
	}
	// The wealth falls as the mean rises to the observed one.
	low, high := 0.0, float64(hit)/float64(n)
	for range 50 {
		mid := (low + high) / 2
		if logWealth(mid, n, hit) >= -math.Log(alpha) {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}

// logWealth is ln mean over bets of (1+lambda(1-b))^hit (1-lambda b)^(n-hit),
// the bets spread evenly in ln between 1/1000 of the largest possible one, 1/b,
// and 99 % of it.
func logWealth(b float64, n, hit int) float64 {
	if !(b > 0 && b < 1) || n == 0 {
		return 0
	}
	var logs [bets]float64
	top := math.Inf(-1)
	for i := range logs {
		share := 0.001 * math.Pow(990, float64(i)/(bets-1))
		lambda := share / b
		logs[i] = float64(hit)*math.Log1p(lambda*(1-b)) + float64(n-hit)*math.Log1p(-share)
		top = max(top, logs[i])
	}
	sum := 0.0
	for _, l := range logs {
		sum += math.Exp(l - top)
	}
	return top + math.Log(sum/bets)
}

// Broken reports whether the promise is refuted at level alpha.
func Broken(e *EProcess, alpha float64) bool { return e.LogMax() >= -math.Log(alpha) }
