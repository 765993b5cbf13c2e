package routertrain

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Scorer says what an answer is worth, 0..1, beside the right one.
type Scorer struct {
	Name  string
	Score func(answer, reference string) float64
}

// Scorers lists the rules by which answers are scored; a judge is a model and
// comes beside them (Judge).
func Scorers() []Scorer {
	return []Scorer{
		{"exact_match", exactMatch}, {"multiple_choice", multipleChoice}, {"numeric", numeric},
		{"token_f1", tokenF1}, {"rouge_l", rougeL},
	}
}

// ScorerByName finds a rule.
func ScorerByName(name string) (Scorer, error) {
	var names []string
	for _, s := range Scorers() {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return Scorer{}, fmt.Errorf("scorer %q is unknown; have %s, judge", name, strings.Join(names, ", "))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// exactMatch compares without the spaces around.
func exactMatch(answer, reference string) float64 {
	return truth(strings.TrimSpace(answer) == strings.TrimSpace(reference))
}

var choice = regexp.MustCompile(`(?:^|[^\pL\pN])\(?([A-Ja-j])(?:[).:\s]|$)`)

// multipleChoice compares the letter that the answer names: what follows
// "answer is" if that occurs, else the first letter that stands alone.
func multipleChoice(answer, reference string) float64 {
	letter := func(s string) string {
		if i := strings.LastIndex(strings.ToLower(s), "answer is"); i >= 0 {
			s = s[min(len(s), i+len("answer is")):]
		}
		m := choice.FindStringSubmatch(s)
		if m == nil {
			return ""
		}
		return strings.ToUpper(m[1])
	}
	got := letter(answer)
	return truth(got != "" && got == letter(reference))
}

var number = regexp.MustCompile(`[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?`)

// numeric compares the last number of the answer with the last of the
// reference, after "####" where that stands (GSM8K's form). Commas between
// digits are left out.
func numeric(answer, reference string) float64 {
	last := func(s string) (float64, bool) {
		if i := strings.LastIndex(s, "####"); i >= 0 {
			s = s[i:]
		}
		all := number.FindAllString(s, -1)
		if len(all) == 0 {
			return 0, false
		}
		x, err := strconv.ParseFloat(strings.ReplaceAll(all[len(all)-1], ",", ""), 64)
		return x, err == nil
	}
	a, ok := last(answer)
	b, ok2 := last(reference)
	return truth(ok && ok2 && (a == b || abs(a-b) <= 1e-6*max(abs(a), abs(b))))
}

func abs(x float64) float64 {
	if x < 0 {
		return -x
	}
	return x
}

// words are lower case, without punctuation and English articles (the
// normalization of SQuAD, arXiv 1606.05250, section 6.1).
func words(s string) []string {
	f := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })
	return slices.DeleteFunc(f, func(w string) bool { return w == "a" || w == "an" || w == "the" })
}

// tokenF1 is the harmonic mean of precision and recall of the words.
func tokenF1(answer, reference string) float64 {
	a, b := words(answer), words(reference)
	if len(a) == 0 || len(b) == 0 {
		return truth(len(a) == len(b))
	}
	count := map[string]int{}
	for _, w := range b {
		count[w]++
	}
	same := 0
	for _, w := range a {
		if count[w] > 0 {
			count[w]--
			same++
		}
	}
	return 2 * float64(same) / float64(len(a)+len(b))
}

// rougeL is the F-measure of the longest common subsequence of words (Lin 2004),
// with equal weights. Texts beyond 4,096 words are cut.
func rougeL(answer, reference string) float64 {
	const most = 4096
	a, b := words(answer), words(reference)
	a, b = a[:min(most, len(a))], b[:min(most, len(b))]
	if len(a) == 0 || len(b) == 0 {
		return truth(len(a) == len(b))
	}
	row := make([]int, len(b)+1)
	for _, w := range a {
		before := 0
		for j, v := range b {
			next := row[j+1]
			if w == v {
				row[j+1] = before + 1
			} else {
				row[j+1] = max(row[j+1], row[j])
			}
			before = next
		}
	}
	return 2 * float64(row[len(b)]) / float64(len(a)+len(b))
}
