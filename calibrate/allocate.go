package calibrate

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"

	"slmc/model"
	"slmc/quant"
)

// Bit allocation: one number format for each part of a model, so that the sum
// of their divergences is least under a budget of bytes. This is the multiple
// choice knapsack problem, solved by dynamic programming over bytes (Kellerer,
// Pferschy, Pisinger, "Knapsack Problems", 2004, section 11.5), as bit
// allocation has been since Shoham and Gersho (1988). Their greedy choice along
// the convex hull is nearly as good; the table costs nothing at this size and
// is exact.

// ErrBudget is returned when even the smallest choices are too large.
var ErrBudget = errors.New("the budget is too small")

// cells bounds the table of the dynamic program. Sizes are counted in units of
// 1/cells of the largest possible sum, rounded up, so that a budget is never
// exceeded; an allocation may miss at most a part's share of the rounding.
const cells = 1 << 15

// Allocation is a choice for every part.
type Allocation struct {
	Parts  []Sensitivity
	Chosen []int   // index into Parts[i].Choices
	Bytes  int64   // sum of the chosen parts
	KL     float64 // sum of their divergences, nats a token
}

// Allocate chooses one format for each part with the least summed KL such that
// the chosen parts have at most budget bytes: what a file may have, less all
// that is not in the parts (vectors, tokenizer, manifest). More budget never
// gives a larger sum. Of equal sums it takes the smaller file.
func Allocate(parts []Sensitivity, budget int64) (Allocation, error) {
	least, most := int64(0), int64(0)
	for _, p := range parts {
		if len(p.Choices) == 0 {
			panic("calibrate: part " + p.Name + " has no choice")
		}
		least += slices.MinFunc(p.Choices, bySize).Bytes
		most += slices.MaxFunc(p.Choices, bySize).Bytes
	}
	if least > budget {
		return Allocation{}, fmt.Errorf("%w: the smallest formats take %d bytes, %d are left for them", ErrBudget, least, budget)
	}
	unit := unitOf(parts, most)
	limit := int(min(budget, most+unit*int64(len(parts))) / unit)
	best, from := table(parts, unit, limit)
	at := 0
	for c, kl := range best {
		if kl < best[at] {
			at = c
		}
	}
	if math.IsInf(best[at], 1) { // only rounding to units stands in the way
		return smallest(parts), nil
	}
	out := Allocation{Parts: parts, Chosen: make([]int, len(parts))}
	for i := len(parts) - 1; i >= 0; i-- {
		n := int(from[i][at])
		out.Chosen[i] = n
		at -= units(parts[i].Choices[n].Bytes, unit)
	}
	return out.total(), nil
}

func bySize(a, b Choice) int { return int(a.Bytes - b.Bytes) }

// units is how many units cover n bytes.
func units(n, unit int64) int { return int((n + unit - 1) / unit) }

// unitOf is the unit of sizes: what divides all of them if that is coarse
// enough. It does not depend on the budget, so that budgets compare.
func unitOf(parts []Sensitivity, most int64) int64 {
	unit := int64(0)
	for _, p := range parts {
		for _, c := range p.Choices {
			for a, b := c.Bytes, unit; ; a, b = b, a%b {
				if b == 0 {
					unit = a
					break
				}
			}
		}
	}
	return max(unit, (most+cells-1)/cells, 1)
}

// table returns, for every number of units up to limit, the least sum of KL
// that takes exactly so many, and by part the choice that got there.
func table(parts []Sensitivity, unit int64, limit int) (best []float64, from [][]uint8) {
	best = make([]float64, limit+1)
	for c := range best[1:] {
		best[c+1] = math.Inf(1)
	}
	for _, p := range parts {
		next, choice := make([]float64, limit+1), make([]uint8, limit+1)
		for c := range next {
			next[c] = math.Inf(1)
		}
		for n, option := range p.Choices {
			size := units(option.Bytes, unit)
			for c := size; c <= limit; c++ {
				if kl := best[c-size] + option.KL; kl < next[c] {
					next[c], choice[c] = kl, uint8(n)
				}
			}
		}
		best, from = next, append(from, choice)
	}
	return best, from
}

// smallest takes every part's smallest choice.
func smallest(parts []Sensitivity) Allocation {
	a := Allocation{Parts: parts, Chosen: make([]int, len(parts))}
	for i, p := range parts {
		for n, c := range p.Choices {
			if c.Bytes < p.Choices[a.Chosen[i]].Bytes {
				a.Chosen[i] = n
			}
		}
	}
	return a.total()
}

func (a Allocation) total() Allocation {
	for i, n := range a.Chosen {
		a.Bytes += a.Parts[i].Choices[n].Bytes
		a.KL += a.Parts[i].Choices[n].KL
	}
	return a
}

// Recipe writes the allocation as rules: for each role the format that most of
// its weights have, then runs of blocks that differ. It gives every weight of g
// that is in a part the format that was chosen for it.
func (a Allocation) Recipe(g *model.Graph, name string) (model.Recipe, error) {
	format := make([]quant.Format, len(g.Weights))
	for i, p := range a.Parts {
		for _, w := range p.Weights {
			format[w] = p.Choices[a.Chosen[i]].Format
		}
	}
	r := model.Recipe{Name: name}
	for _, role := range model.Roles {
		r.Rules = append(r.Rules, roleRules(g, role, format)...)
	}
	got, err := r.Formats(g)
	if err != nil {
		return r, err
	}
	for i, f := range format {
		if f != nil && f != got[i] {
			return r, fmt.Errorf("recipe %q gives %s the format %s, wanted %s", name, g.Weights[i].Name, got[i].Name(), f.Name())
		}
	}
	return r, nil
}

// roleRules are the rules of one role.
func roleRules(g *model.Graph, role model.Role, format []quant.Format) []model.Rule {
	count, usual := map[string]int{}, ""
	for i, w := range g.Weights {
		if f := format[i]; f != nil && w.Role == role {
			count[f.Name()]++
			if n := count[f.Name()]; usual == "" || n > count[usual] {
				usual = f.Name()
			}
		}
	}
	if usual == "" {
		return nil
	}
	rules := []model.Rule{{Roles: []model.Role{role}, Format: usual}}
	last := -2 // checkpoint layer of the running rule
	for i, w := range g.Weights {
		if w.Role != role || format[i] == nil || format[i].Name() == usual {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(w.Name, "blk.%d.", &n); err != nil {
			rules = append(rules, model.Rule{Weight: w.Name, Format: format[i].Name()})
			continue
		}
		if end := &rules[len(rules)-1]; n == last+1 && len(end.Blocks) == 2 && end.Format == format[i].Name() {
			end.Blocks[1] = n
		} else {
			rules = append(rules, model.Rule{Roles: []model.Role{role}, Blocks: []int{n, n}, Format: format[i].Name()})
		}
		last = n
	}
	return rules
}

// Table writes the allocation for people: every part with the KL of each of its
// formats, the chosen one in brackets, and the sums.
func (a Allocation) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for i, p := range a.Parts {
		fmt.Fprintf(t, "%s\t", p.Name)
		for n, c := range p.Choices {
			cell := fmt.Sprintf("%s %.5f", c.Format.Name(), c.KL)
			if n == a.Chosen[i] {
				cell = "[" + cell + "]"
			}
			fmt.Fprintf(t, "%s\t", cell)
		}
		fmt.Fprintf(t, "%d bytes\t\n", p.Choices[a.Chosen[i]].Bytes)
	}
	fmt.Fprintf(t, "sum\tKL %.5f\t%d bytes\t\n", a.KL, a.Bytes)
	return t.Flush()
}
