package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slmc/internal/deferral"
	slmrt "slmc/runtime"
)

func TestPSI(t *testing.T) {
	ref := deferral.Reference{Checkpoint: deferral.Pre, Edges: []float32{0.25, 0.5}, Share: []float32{0.5, 0.25, 0.25}}
	d := NewDrift(ref)
	if d.PSI() != 0 {
		t.Errorf("%g without scores", d.PSI())
	}
	// By hand: shares (2.5, 2.5, 6.5)/11.5 of the window, (5.5, 3, 3)/11.5 of the reference.
	for _, s := range []float32{0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 1, float32(math.NaN())} {
		d.Add(s)
	}
	want := (2.5-5.5)/11.5*math.Log(2.5/5.5) + (2.5-3)/11.5*math.Log(2.5/3) + (6.5-3)/11.5*math.Log(6.5/3)
	if got := d.PSI(); math.Abs(got-want) > 1e-9 {
		t.Errorf("index %g, wanted %g", got, want)
	}
	// The window forgets.
	for range Window {
		for _, s := range []float32{0.1, 0.1, 0.3, 0.9} {
			d.Add(s)
		}
	}
	if d.N() != Window || d.PSI() > 1e-6 {
		t.Errorf("index %g of %d scores that are distributed as the reference", d.PSI(), d.N())
	}
}

// While the promise holds, even at its edge, the wealth reaches 1/alpha on at most
// a share alpha of paths, looked at after each query; and a broken promise is found.
func TestEProcess(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	const paths, steps, alpha = 200, 600, 0.05
	run := func(bound, mean float64) (broken, covered int) {
		for range paths {
			e := NewEProcess(bound)
			for range steps {
				e.Add(rng.Float64() < mean)
			}
			if Broken(e, alpha) {
				broken++
			}
			if low, high := e.Interval(alpha); low <= mean && mean <= high {
				covered++
			}
		}
		return broken, covered
	}
	for _, c := range []struct {
		bound, mean float64
		least, most int // paths that may break
	}{
		{0.02, 0.02, 0, paths * alpha},
		{0.05, 0.03, 0, paths * alpha / 5},
		{0.02, 0.06, paths * 95 / 100, paths},
	} {
		broken, covered := run(c.bound, c.mean)
		if broken < c.least || broken > c.most {
			t.Errorf("bound %g, mean %g: %d of %d paths break, wanted %d to %d", c.bound, c.mean, broken, paths, c.least, c.most)
		}
		if covered < paths*(100-100*alpha)/100 {
			t.Errorf("bound %g: the interval holds the mean on %d of %d paths", c.bound, covered, paths)
		}
	}
}

// A bet on one query is fair at the bound: the mean of its two outcomes is 1.
func TestWealthIsFair(t *testing.T) {
	for _, b := range []float64{0.001, 0.02, 0.5, 0.99} {
		mean := b*math.Exp(logWealth(b, 1, 1)) + (1-b)*math.Exp(logWealth(b, 1, 0))
		if math.Abs(mean-1) > 1e-9 {
			t.Errorf("bound %g: the expected wealth is %g, wanted 1", b, mean)
		}
	}
}

func answer(id string, outcome slmrt.Outcome, mod func(*Entry)) Entry {
	e := Entry{Kind: KindAnswer, ID: id, Time: time.Unix(1e9, 0).UTC(), Model: "auto", Outcome: outcome, Reason: slmrt.ReasonScore, Served: ServedLocal, Certified: true, MS: 3, Tokens: 2}
	if mod != nil {
		mod(&e)
	}
	return e
}

func TestSummary(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.jsonl")
	yes, no := true, false
	var entries []Entry
	for i := range 6 {
		entries = append(entries, answer(fmt.Sprint("a", i), slmrt.Local, func(e *Entry) { e.Sampled = i < 3 }))
	}
	entries = append(entries,
		answer("d0", slmrt.Defer, func(e *Entry) { e.Sampled, e.Served, e.RemoteTokens = true, ServedRemote, 7 }),
		answer("d1", slmrt.Defer, func(e *Entry) { e.Reason, e.Certified, e.Sampled = slmrt.ReasonBattery, false, true }),
		answer("w", slmrt.LocalWithWarning, func(e *Entry) { e.Reason, e.Certified, e.RemoteError = slmrt.ReasonUpstream, false, "timeout" }),
		answer("l", slmrt.Local, func(e *Entry) { e.Model, e.Certified = "local", false }),
		Entry{Kind: KindAudit, ID: "a0", Agree: &yes}, Entry{Kind: KindAudit, ID: "a1", Agree: &no}, Entry{Kind: KindAudit, ID: "a2", Agree: &no})
	for i, part := range [][]Entry{entries[:4], entries[4:]} {
		w, err := OpenWriter(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range part {
			if err := w.Append(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if i == 0 { // a crash within a line
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(`{"v":1,"kin`); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), wanted 0600", st.Mode(), err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Summarize(bytes.NewReader(data), Options{Bound: 0.1, Alpha: 0.05, Verdicts: map[string]bool{"a1": true}})
	if err != nil {
		t.Fatal(err)
	}
	if s.Answers != 10 || s.Audits != 3 || s.Bad.Lines != 1 || !strings.HasPrefix(s.Bad.First, "line 5:") {
		t.Errorf("%d answers, %d audits, bad lines %+v", s.Answers, s.Audits, s.Bad)
	}
	if s.DeferralRate != 2.0/9 || s.Certified != 7 || s.CertifiedRate != 1.0/7 || s.RemoteErrors["timeout"] != 1 || s.RemoteTokens != 7 {
		t.Errorf("%+v", s)
	}
	if diff := cmp.Diff(map[slmrt.Outcome]int{slmrt.Local: 6, slmrt.Defer: 2, slmrt.LocalWithWarning: 1}, s.Outcomes); diff != "" {
		t.Error(diff)
	}
	// d0 by its deferral, a0 by agreement, a1 by its verdict; a2 is open.
	if a := s.Audit; a.N != 4 || a.Losses != 1 || a.Open != 1 || a.Alarm || a.EValueOpen <= a.EValue || a.Interval[0] <= 0 || a.Interval[1] <= 0.5 {
		t.Errorf("%+v", a)
	}
	if _, err := Summarize(strings.NewReader("not a log\n"), Options{}); !errors.Is(err, errLine) {
		t.Errorf("error %v of a file that is no log", err)
	}
	if _, err := ReadVerdicts(strings.NewReader(`{"id": "a", "loss": true}` + "\n" + `{"id": "b"}`)); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v of a verdict without a loss", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("{\"v\":1,\"kind\":\"answer\",\"id\":\"x\",\"readings\":[{\"checkpoint\":\"pre\",\"score\":0.5}]}\n{"))
	f.Add([]byte("\n\n{\"v\":2}\nnull\n[]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := 0
		bad, err := Read(bytes.NewReader(data), func(e Entry) error {
			lines++
			_, err := json.Marshal(e)
			return err
		})
		if n := bytes.Count(data, []byte("\n")) + 1; lines+bad.Lines > n {
			t.Errorf("%d entries and %d bad ones in %d lines", lines, bad.Lines, n)
		}
		_ = err
	})
}

func FuzzReadVerdicts(f *testing.F) {
	f.Add([]byte("{\"id\":\"a\",\"loss\":true}\n\n{\"id\":\"b\",\"loss\":false}"))
	f.Add([]byte("{\"id\":\"\",\"loss\":null}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := ReadVerdicts(bytes.NewReader(data))
		if err == nil && len(v) > bytes.Count(data, []byte("\n"))+1 {
			t.Errorf("%d verdicts in %q", len(v), data)
		}
	})
}

func TestLongLine(t *testing.T) {
	n := 0
	bad, err := Read(strings.NewReader(strings.Repeat("x", maxLine+1)+"\n"+`{"v":1,"kind":"audit","id":"x"}`), func(Entry) error { n++; return nil })
	if err != nil || n != 1 || bad.Lines != 1 {
		t.Errorf("%d entries, bad %+v, error %v", n, bad, err)
	}
}

// Groups of the requests of testdata follow what the requests ask for, better
// than chance; the same seed gives the same groups.
func TestClusters(t *testing.T) {
	data, err := os.ReadFile("../../testdata/requests.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	w := NewWriter(&log)
	call := map[string]string{}
	for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		var r struct{ Query, Call string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		call[r.Query], _, _ = strings.Cut(r.Call, "(")
		for range 1 + i%2 {
			if err := w.Append(answer(fmt.Sprint(i), slmrt.Local, func(e *Entry) { e.Text = &Text{Query: r.Query, Small: &r.Call} })); err != nil {
				t.Fatal(err)
			}
		}
	}
	group := func(seed uint64) ([]Query, []Cluster) {
		qs, _, err := Queries(bytes.NewReader(log.Bytes()), nil)
		if err != nil {
			t.Fatal(err)
		}
		cs, err := MakeClusters(context.Background(), qs, 40, rand.New(rand.NewPCG(seed, 0)))
		if err != nil {
			t.Fatal(err)
		}
		return qs, cs
	}
	qs, cs := group(1)
	again, _ := group(1)
	if !cmp.Equal(qs, again, cmp.AllowUnexported(Query{})) {
		t.Error("the same seed gave other groups")
	}
	if len(qs) != len(call) || qs[1].Count != 2 || qs[1].Small == "" {
		t.Fatalf("%d queries, the second %+v", len(qs), qs[1])
	}
	total := 0
	for i, c := range cs {
		total += c.Queries
		if c.ID != i || i > 0 && c.Count > cs[i-1].Count || len(c.Examples) == 0 {
			t.Errorf("group %d is %+v", i, c)
		}
	}
	if total != len(qs) {
		t.Errorf("%d queries in groups, %d in all", total, len(qs))
	}
	// Pairs that share a group ask for the same more often than pairs at large.
	same, of, sameAll, all := 0, 0, 0, 0
	for i := range qs {
		for j := range i {
			equal := call[qs[i].Text] == call[qs[j].Text]
			all++
			if equal {
				sameAll++
			}
			if qs[i].Cluster == qs[j].Cluster {
				of++
				if equal {
					same++
				}
			}
		}
	}
	if share(same, of) < 5*share(sameAll, all) {
		t.Errorf("%d of %d pairs in a group ask for the same, %d of %d at large", same, of, sameAll, all)
	}
	if _, _, err := Queries(strings.NewReader(`{"v":1,"kind":"answer","id":"x"}`), nil); !errors.Is(err, ErrNoText) {
		t.Errorf("error %v of a log without text", err)
	}
	redacted, _, err := Queries(bytes.NewReader(log.Bytes()), func(string) string { return "x" })
	if err != nil || len(redacted) != 1 || redacted[0].Small != "x" {
		t.Errorf("redacted: %d queries, %v", len(redacted), err)
	}
	if !slices.ContainsFunc(cs, func(c Cluster) bool { return len(c.Terms) > 0 }) {
		t.Error("no group has terms")
	}
}
