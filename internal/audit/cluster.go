package audit

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode"

	slmrt "slmc/runtime"
)

// The step from a log to new training rows (Belcak et al., arXiv 2506.02153,
// section 6, S2 and S3): the queries of a log, each once, in groups of like
// ones. Queries are bags of words and pairs of words, weighted by tf-idf and
// scaled to length 1; groups are those of spherical k-means (Dhillon and Modha,
// 2001) from a seeded k-means++ start. It needs no model, and the same log gives
// the same groups.

// Query is a query of the log, with all its occurrences.
type Query struct {
	Text     string
	Count    int
	Deferred int    // how often it was handed off
	Small    string // an answer of this model, empty if the log has none
	Large    string // an answer of the large model
	Cluster  int    // number of its group, from 0, largest first
	near     float64
}

// Cluster is a group of queries.
type Cluster struct {
	ID       int      `json:"cluster"`
	Queries  int      `json:"queries"` // different ones
	Count    int      `json:"count"`   // occurrences
	Deferred float64  `json:"deferral_rate"`
	Terms    []string `json:"terms"`    // what its queries have in common
	Examples []string `json:"examples"` // nearest to its middle
}

// ErrNoText is a log without text.
var ErrNoText = fmt.Errorf("the log has no text of queries: it is kept only if the server is told to")

// Queries collects the single-message queries of a log in order of appearance;
// redact, which may be nil, changes each text before it is compared.
func Queries(r io.Reader, redact func(string) string) ([]Query, Bad, error) {
	if redact == nil {
		redact = func(s string) string { return s }
	}
	var out []Query
	index := map[string]int{}
	answered := map[string]int{} // by id, for the audits that follow
	bad, err := Read(r, func(e Entry) error {
		i, ok := answered[e.ID]
		if e.Kind == KindAnswer && e.Text != nil && strings.TrimSpace(e.Text.Query) != "" {
			text := strings.TrimSpace(redact(e.Text.Query))
			i, ok = index[text]
			if !ok {
				i, ok = len(out), true
				index[text] = i
				out = append(out, Query{Text: text})
			}
			out[i].Count++
			if e.Outcome == slmrt.Defer {
				out[i].Deferred++
			}
			if e.Sampled {
				answered[e.ID] = i
			}
		}
		if ok && e.Text != nil {
			if e.Text.Small != nil {
				out[i].Small = redact(*e.Text.Small)
			}
			if e.Text.Large != nil {
				out[i].Large = redact(*e.Text.Large)
			}
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		err = ErrNoText
	}
	return out, bad, err
}

// MaxClusters is the most groups that MakeClusters makes.
const MaxClusters = 1000

// MakeClusters groups qs into k groups, or about sqrt(n/2) for k = 0, and sets their
// Cluster.
func MakeClusters(ctx context.Context, qs []Query, k int, rng *rand.Rand) ([]Cluster, error) {
	if k == 0 {
		k = int(math.Sqrt(float64(len(qs)) / 2))
	}
	k = max(1, min(k, len(qs), MaxClusters))
	terms, vecs := vectors(qs)
	centres, err := kmeans(ctx, vecs, len(terms), k, qs, rng)
	if err != nil {
		return nil, err
	}
	return describe(qs, terms, vecs, centres), nil
}

// coordinate is an entry of a sparse vector.
type coordinate struct {
	term int
	v    float64
}

// vectors are the tf-idf vectors of the queries, of length 1 unless empty.
func vectors(qs []Query) (terms []string, vecs [][]coordinate) {
	index := map[string]int{}
	var seen []int // queries that have the term
	counts := make([]map[int]int, len(qs))
	for i, q := range qs {
		counts[i] = map[int]int{}
		for _, w := range words(q.Text) {
			t, ok := index[w]
			if !ok {
				t = len(terms)
				index[w] = t
				terms, seen = append(terms, w), append(seen, 0)
			}
			if counts[i][t]++; counts[i][t] == 1 {
				seen[t]++
			}
		}
	}
	kept := common(seen)
	vecs = make([][]coordinate, len(qs))
	for i, c := range counts {
		var v []coordinate
		norm := 0.0
		for t, n := range c {
			if seen[t] < kept {
				continue
			}
			x := (1 + math.Log(float64(n))) * math.Log(float64(1+len(qs))/float64(1+seen[t]))
			v = append(v, coordinate{t, x})
		}
		slices.SortFunc(v, func(a, b coordinate) int { return cmp.Compare(a.term, b.term) }) // sums in one order
		for _, x := range v {
			norm += x.v * x.v
		}
		if norm > 0 {
			for j := range v {
				v[j].v /= math.Sqrt(norm)
			}
		}
		vecs[i] = v
	}
	return terms, vecs
}

// maxTerms bounds the width of a centre: beyond it rare terms are left out.
const maxTerms = 20_000

// common is the smallest number of queries that a term must be in for no more
// than maxTerms to be left.
func common(seen []int) int {
	sorted := slices.Sorted(slices.Values(seen))
	if len(sorted) <= maxTerms {
		return 1
	}
	return sorted[len(sorted)-maxTerms-1] + 1
}

// maxWords bounds what of a query counts.
const maxWords = 256

// words are the words of a text in lower case, and pairs of neighbours.
func words(text string) []string {
	ws := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '\'' })
	ws = ws[:min(len(ws), maxWords)]
	for i := range len(ws) - 1 {
		ws = append(ws, ws[i]+" "+ws[i+1])
	}
	return ws
}

func dot(v []coordinate, centre []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x.v * centre[x.term]
	}
	return sum
}

// rounds bounds k-means; it has settled long before on queries.
const rounds = 50

// kmeans assigns every query and returns the centres [k][terms].
func kmeans(ctx context.Context, vecs [][]coordinate, terms, k int, qs []Query, rng *rand.Rand) ([][]float64, error) {
	centres := seed(vecs, terms, k, rng)
	for range rounds {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		moved := false
		for i, v := range vecs {
			best, near := 0, -1.0
			for c := range centres {
				if d := dot(v, centres[c]); d > near {
					best, near = c, d
				}
			}
			moved = moved || qs[i].Cluster != best || qs[i].near == 0
			qs[i].Cluster, qs[i].near = best, near+1 // 0 means not placed yet
		}
		if !moved {
			break
		}
		for c := range centres {
			clear(centres[c])
		}
		for i, v := range vecs {
			for _, x := range v {
				centres[qs[i].Cluster][x.term] += x.v * float64(qs[i].Count)
			}
		}
		for _, c := range centres {
			normalize(c)
		}
	}
	return centres, nil
}

func normalize(c []float64) {
	sum := 0.0
	for _, x := range c {
		sum += x * x
	}
	if sum > 0 {
		for i := range c {
			c[i] /= math.Sqrt(sum)
		}
	}
}

// seed chooses centres among the queries, far ones with higher probability
// (k-means++, Arthur and Vassilvitskii, 2007).
func seed(vecs [][]coordinate, terms, k int, rng *rand.Rand) [][]float64 {
	far := make([]float64, len(vecs))
	for i := range far {
		far[i] = 1
	}
	var centres [][]float64
	for len(centres) < k {
		total := 0.0
		for _, f := range far {
			total += f
		}
		pick, u := len(vecs)-1, rng.Float64()*total
		for i, f := range far {
			if u -= f; u < 0 {
				pick = i
				break
			}
		}
		c := make([]float64, terms)
		for _, x := range vecs[pick] {
			c[x.term] = x.v
		}
		centres = append(centres, c)
		for i, v := range vecs {
			far[i] = min(far[i], max(0, 1-dot(v, c)))
		}
	}
	return centres
}

// describe numbers the groups by size and says what is in them; empty ones
// vanish.
func describe(qs []Query, terms []string, vecs [][]coordinate, centres [][]float64) []Cluster {
	out := make([]Cluster, len(centres))
	deferred := make([]int, len(centres))
	members := make([][]int, len(centres))
	for i, q := range qs {
		c := &out[q.Cluster]
		c.Queries++
		c.Count += q.Count
		deferred[q.Cluster] += q.Deferred
		members[q.Cluster] = append(members[q.Cluster], i)
	}
	order := make([]int, len(out))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(out[b].Count, out[a].Count) })
	var sorted []Cluster
	for _, old := range order {
		c := out[old]
		if c.Queries == 0 {
			continue
		}
		c.ID, c.Deferred = len(sorted), share(deferred[old], c.Count)
		c.Terms = topTerms(terms, centres[old])
		m := members[old]
		slices.SortStableFunc(m, func(a, b int) int { return cmp.Compare(dot(vecs[b], centres[old]), dot(vecs[a], centres[old])) })
		for _, i := range m {
			qs[i].Cluster = c.ID
		}
		for _, i := range m[:min(3, len(m))] {
			c.Examples = append(c.Examples, qs[i].Text)
		}
		sorted = append(sorted, c)
	}
	return sorted
}

// topTerms are the heaviest terms of a centre.
func topTerms(terms []string, centre []float64) []string {
	order := make([]int, len(terms))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(centre[b], centre[a]) })
	var out []string
	for _, t := range order[:min(5, len(order))] {
		if centre[t] > 0 {
			out = append(out, terms[t])
		}
	}
	return out
}
