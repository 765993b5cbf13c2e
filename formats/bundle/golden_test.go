package bundle

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestGoldenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vocab := rapid.IntRange(1, 300).Draw(t, "vocab")
		id := rapid.IntRange(0, vocab-1)
		digest := rapid.Custom(func(t *rapid.T) LogitsDigest {
			return DigestLogits(rapid.SliceOfN(rapid.Float32(), 1, 3).Draw(t, "logits"))
		})
		g := &Golden{Origin: "given", Seed: rapid.Uint64().Draw(t, "seed"), Prompts: []GoldenPrompt{}}
		for range rapid.IntRange(0, 3).Draw(t, "prompts") {
			n, m := rapid.IntRange(1, 5).Draw(t, "ids"), rapid.IntRange(1, 5).Draw(t, "greedy")
			p := GoldenPrompt{
				IDs:    rapid.SliceOfN(id, n, n).Draw(t, "ids"),
				Logits: rapid.SliceOfN(digest, n, n).Draw(t, "logits"), Greedy: rapid.SliceOfN(id, m, m).Draw(t, "greedy"),
				GreedyLogits: rapid.SliceOfN(digest, m, m).Draw(t, "greedy logits"), Teacher: []TeacherStep{},
			}
			for range rapid.SampledFrom([]int{0, n}).Draw(t, "teacher") {
				s := TeacherStep{NLL: rapid.Float32Range(0, math.MaxFloat32).Draw(t, "nll")}
				last := float32(0)
				for range min(teacherTop, vocab) {
					last = rapid.Float32Range(-math.MaxFloat32, last).Draw(t, "logprob")
					s.Top = append(s.Top, TokenLogProb{id.Draw(t, "id"), last})
				}
				p.Teacher = append(p.Teacher, s)
			}
			g.Prompts = append(g.Prompts, p)
		}
		text, err := g.Encode(vocab)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeGolden(text, vocab, false)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(g, again); diff != "" {
			t.Errorf("changed (-wrote +read):\n%s", diff)
		}
	})
}

func TestGoldenRefuses(t *testing.T) {
	const V = 16
	for want, breakIt := range map[string]func(g *Golden){
		"origin has 0 bytes":             func(g *Golden) { g.Origin = "" },
		"no ids":                         func(g *Golden) { g.Prompts[0] = GoldenPrompt{} },
		"1 logits digests for 2 ids":     func(g *Golden) { g.Prompts[0].Logits = g.Prompts[0].Logits[:1] },
		"for 2 greedy":                   func(g *Golden) { g.Prompts[0].Greedy = []int{1, 2} },
		"teacher at 1 positions of 2":    func(g *Golden) { g.Prompts[1].Teacher = g.Prompts[1].Teacher[:1] },
		"without the token that follows": func(g *Golden) { g.Prompts[1].Greedy, g.Prompts[1].GreedyLogits = nil, nil },
		"prompts[1]: token 1 is 16":      func(g *Golden) { g.Prompts[1].IDs[1] = V },
		"token 0 is -1":                  func(g *Golden) { g.Prompts[0].Greedy[0] = -1 },
		"4 top tokens":                   func(g *Golden) { g.Prompts[0].Teacher[0].Top = g.Prompts[0].Teacher[0].Top[:4] },
		"top[2] is 99":                   func(g *Golden) { g.Prompts[0].Teacher[0].Top[2].ID = 99 },
		"top[1]: log probability 0.5":    func(g *Golden) { g.Prompts[0].Teacher[0].Top[1].LogProb = 0.5 },
		"top[4]: log probability -0.01":  func(g *Golden) { g.Prompts[0].Teacher[0].Top[4].LogProb = -0.01 },
		"top[4]: log probability -Inf":   func(g *Golden) { g.Prompts[0].Teacher[0].Top[4].LogProb = float32(math.Inf(-1)) },
		"top[4]: log probability NaN":    func(g *Golden) { g.Prompts[0].Teacher[0].Top[4].LogProb = float32(math.NaN()) },
		"teacher[1]: nll is NaN":         func(g *Golden) { g.Prompts[0].Teacher[1].NLL = float32(math.NaN()) },
		"nll is -1":                      func(g *Golden) { g.Prompts[0].Teacher[0].NLL = -1 },
		"more than 16384 elements":       func(g *Golden) { g.Prompts = make([]GoldenPrompt, 1<<14+1); fillPrompts(g) },
		"at most 16777216 are allowed":   func(g *Golden) { g.Prompts[0] = longPrompt(); g.Prompts = repeat(g.Prompts[0], 23) },
	} {
		g := tinyGolden(V)
		breakIt(g)
		if _, err := g.Encode(V); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %.200v, wanted %q", err, want)
		}
	}
}

func fillPrompts(g *Golden) {
	for i := range g.Prompts {
		g.Prompts[i] = GoldenPrompt{IDs: []int{1}, Logits: make([]LogitsDigest, 1)}
	}
}

func longPrompt() GoldenPrompt {
	n := 20000
	return GoldenPrompt{IDs: make([]int, n), Logits: make([]LogitsDigest, n)}
}

func repeat(p GoldenPrompt, n int) (out []GoldenPrompt) {
	for range n {
		out = append(out, p)
	}
	return out
}

// TestDigestLogits holds the digest to its definition, computed elsewhere:
// printf '\x00\x00\x80\x3f\x00\x00\x00\x80' | sha256sum
func TestDigestLogits(t *testing.T) {
	got := DigestLogits([]float32{1, float32(math.Copysign(0, -1))})
	if want := "0cd40d287b3669a987311a242f957a55"; got.String() != want {
		t.Errorf("got %s, wanted %s", got, want)
	}
	a, b := tinyGolden(9), tinyGolden(9)
	b.Prompts[1].GreedyLogits[0][15] ^= 1
	if a.Digest() == b.Digest() {
		t.Error("a changed digest does not change the sum")
	}
}

func FuzzGolden(f *testing.F) {
	text, err := tinyGolden(16).Encode(16)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, false)
	f.Add([]byte(`{"origin":"given","prompts":[],"seed":"1","then":1}`), true)
	f.Add([]byte(`{"origin":"given","prompts":[{}],"seed":"1"}`), false)
	f.Fuzz(func(t *testing.T, text []byte, newer bool) {
		g, err := DecodeGolden(text, 16, newer)
		if err != nil {
			return
		}
		again, err := g.Encode(16)
		if err != nil || !newer && !bytes.Equal(text, again) {
			t.Errorf("%q is read, %q written, %v", text, again, err)
		}
	})
}
