package serve_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"slmc/internal/audit"
	"slmc/internal/deferral"
	"slmc/internal/serve"
	slmrt "slmc/runtime"
)

// routed gives a model a router that scores every query 0.5 at every checkpoint
// and finds it 0.3 strange; the table has one row.
func routed(t testing.TB, m *slmrt.Model, row deferral.Row) *slmrt.Model {
	t.Helper()
	p := deferral.Parts{Shape: slmrt.ShapeOf(m), Strange: deferral.Strange{CDF: deferral.Curve{X: []float32{0}, Y: []float32{0.3}}}}
	for _, c := range deferral.Checkpoints() {
		p.Heads = append(p.Heads, deferral.Head{
			Checkpoint: c, Inputs: []int32{0}, Mean: []float32{0}, Inv: []float32{0}, W2: make([]float32, deferral.Outputs), B2: make([]float32, deferral.Outputs),
		})
		p.References = append(p.References, deferral.Reference{Checkpoint: c, Edges: []float32{0.4, 0.6}, Share: []float32{0.5, 0.25, 0.25}})
	}
	p.References = append(p.References, deferral.Reference{Checkpoint: deferral.OODReference, Edges: []float32{0.2}, Share: []float32{0.5, 0.5}})
	row.Bound, row.Delta, row.N = 0.02, 0.05, 1000
	if row.Checkpoint == "" {
		row.Checkpoint = deferral.Post
	}
	p.Table = deferral.Table{Rows: []deferral.Row{row}, Bound: 0.02, Checkpoint: row.Checkpoint}
	r, err := deferral.New(p)
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.WithRouter(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const (
	never = deferral.Never
	hit   = 0.4 // the score of 0.5 reaches it
	miss  = 0.9
)

// longest are queries whose answers pass the first mid checkpoint, with those.
func longest(t testing.TB, m *slmrt.Model) (qs, want []string) {
	t.Helper()
	all := queries(t)
	for i, a := range answers(t, m, all) {
		ids, err := m.Tokenizer.Encode(a, false)
		if err != nil {
			t.Fatal(err)
		}
		if len(ids) > deferral.MidEvery+4 && len(ids) < 60 {
			qs, want = append(qs, all[i]), append(want, a)
		}
	}
	if len(qs) < 4 {
		t.Fatalf("%d queries with long answers: the test shows nothing", len(qs))
	}
	return qs[:4], want[:4]
}

// Every checkpoint, with text held back and streamed at once: the client gets one
// whole message, from whomever the row says.
func TestRowDecides(t *testing.T) {
	noneLeft(t)
	m := model(t)
	far := start(t, m, nil)
	qs, want := longest(t, m)
	for _, c := range []struct {
		name    string
		row     deferral.Row
		hold    bool
		outcome string
		reason  string
		point   string
		served  string // of a stream
	}{
		{"sure", deferral.Row{Pre: miss, Mid: miss, Post: miss, OOD: never}, true, "LOCAL", "score", "post", "local"},
		{"sure, at once", deferral.Row{Pre: miss, Mid: miss, Post: miss, OOD: never}, false, "LOCAL", "score", "post", "local"},
		{"pre", deferral.Row{Pre: hit, Mid: never, Post: never, OOD: never, Checkpoint: deferral.Pre}, true, "DEFER", "score", "pre", "remote"},
		{"mid", deferral.Row{Pre: never, Mid: hit, Post: never, OOD: never, Checkpoint: deferral.Mid}, true, "DEFER", "score", "mid", "remote"},
		{"mid, at once", deferral.Row{Pre: never, Mid: hit, Post: never, OOD: never, Checkpoint: deferral.Mid}, false, "DEFER", "score", "mid", "local+remote"},
		{"post", deferral.Row{Pre: never, Mid: never, Post: hit, OOD: never}, true, "DEFER", "score", "post", "remote"},
		{"post, too late", deferral.Row{Pre: never, Mid: never, Post: hit, OOD: never}, false, "LOCAL_WITH_WARNING", "score", "post", "local"},
		{"strange", deferral.Row{Pre: miss, Mid: miss, Post: miss, OOD: 0.3}, true, "DEFER", "unfamiliar", "pre", "remote"},
	} {
		p := slmrt.DefaultPolicy()
		p.Handoff.Hold, p.Handoff.Partial = c.hold, !c.hold
		r := start(t, routed(t, m, c.row), func(s *serve.Config) { s.Policy, s.Upstream = p, upstream(t, far.url, nil) })
		for i, q := range qs {
			for _, stream := range []bool{true, false} {
				outcome, served := c.outcome, c.served
				if !stream && !c.hold { // nothing is out before the end
					switch c.point {
					case "post":
						if c.row.Post == hit {
							outcome, served = "DEFER", "remote"
						}
					case "mid":
						served = "local+remote"
					}
				}
				a := ask(t, r, chatPath, chat("auto", q, "stream", stream))
				whole := a.text == want[i]
				if served == "local+remote" { // other tokens may spell the cut text
					whole = a.text == goneOn(t, m, q, want[i])
				}
				if !whole || a.finish != "stop" || a.done != stream || a.slmc.Outcome != outcome || a.slmc.Reason != c.reason || a.slmc.Served != served {
					t.Errorf("%s, stream %v, %q: %+v, wanted %s %s %q", c.name, stream, q, a, outcome, served, want[i])
				}
				j := a.slmc.Judgement
				if j == nil || string(j.Point) != c.point || j.Score != 0.5 || j.Row != 0 {
					t.Errorf("%s: judgement %+v, wanted one at %s", c.name, j, c.point)
				}
				if certified := c.reason == "score" && outcome != "LOCAL_WITH_WARNING"; a.slmc.Certified != certified {
					t.Errorf("%s: certified is %v", c.name, a.slmc.Certified)
				}
				if (c.hold || !stream) && (a.header.Get("X-Slmc-Score") != "0.5" || a.header.Get("X-Slmc-Row") != "0" || a.header.Get("X-Slmc-Outcome") != outcome) {
					t.Errorf("%s: head %v", c.name, a.header)
				}
			}
			// What the certificate was not made for is not called certified.
			if a := ask(t, r, chatPath, chat("auto", q, "temperature", 0.5)); a.slmc.Certified {
				t.Errorf("%s: a sampled answer is certified", c.name)
			}
		}
		r.stop()
	}
}

// goneOn is the answer whose first mid checkpoint's text another session goes on
// from.
func goneOn(t testing.TB, m *slmrt.Model, q, want string) string {
	t.Helper()
	s, err := m.NewSession(slmrt.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ids, err := m.EncodeChat(slmrt.Chat{Messages: chatOf(q)})
	if err != nil {
		t.Fatal(err)
	}
	mr := routed(t, m, deferral.Row{Pre: never, Mid: hit, Post: never, OOD: never, Checkpoint: deferral.Mid})
	sr, err := mr.NewSession(slmrt.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer sr.Close()
	res, err := sr.Generate(t.Context(), slmrt.Request{Prompt: ids, OnReading: func(x deferral.Reading) bool { return x.Checkpoint == deferral.Mid }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(want, res.Text) {
		t.Fatalf("%q does not begin with %q", want, res.Text)
	}
	ids, n, err := m.EncodeBegun(slmrt.Chat{Messages: chatOf(q)}, res.Text)
	if err != nil {
		t.Fatal(err)
	}
	return res.Text + continued(t, m, ids, n)
}

// A large model that fails after this one has begun: the answer is whole all the
// same, and the text that was streamed is not said again. One that says the
// beginning again is cut.
func TestHandOffWithinAnAnswer(t *testing.T) {
	noneLeft(t)
	m := model(t)
	qs, want := longest(t, m)
	row := deferral.Row{Pre: never, Mid: hit, Post: never, OOD: never, Checkpoint: deferral.Mid}
	for i, q := range qs {
		for _, hold := range []bool{true, false} {
			p := slmrt.DefaultPolicy()
			p.Handoff.Hold, p.Handoff.Partial = hold, true
			dead := startFaulty(t, func(int, net.Conn, *http.Request) {})
			r := start(t, routed(t, m, row), func(s *serve.Config) { s.Policy, s.Upstream = p, upstream(t, dead.url, nil) })
			a := ask(t, r, chatPath, chat("auto", q, "stream", true))
			expect := want[i]
			if !hold {
				expect = goneOn(t, m, q, want[i])
			}
			if a.text != expect || a.slmc.Outcome != "LOCAL_WITH_WARNING" || a.slmc.Reason != "upstream" || !a.done {
				t.Errorf("hold %v, %q: %+v, wanted %q", hold, q, a, expect)
			}
			r.stop()
			parrot := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) {
				fmt.Fprint(c, streamHead)
				for _, x := range want[i] {
					fmt.Fprint(c, event(string(x)))
				}
				fmt.Fprint(c, ended)
			})
			r = start(t, routed(t, m, row), func(s *serve.Config) { s.Policy, s.Upstream = p, upstream(t, parrot.url, nil) })
			if a := ask(t, r, chatPath, chat("auto", q, "stream", true)); a.text != want[i] || a.slmc.Served != "local+remote" || !a.done {
				t.Errorf("hold %v, %q: %+v, wanted %q once", hold, q, a, want[i])
			}
			var sent struct {
				Messages []struct{ Role, Content string }
				Continue bool `json:"continue_final_message"`
			}
			if err := json.Unmarshal([]byte(parrot.bodies()[0]), &sent); err != nil {
				t.Fatal(err)
			}
			if n := len(sent.Messages); n != 2 || sent.Messages[1].Role != "assistant" || !strings.HasPrefix(want[i], sent.Messages[1].Content) || !sent.Continue {
				t.Errorf("the large model got %s", parrot.bodies()[0])
			}
			r.stop()
		}
	}
}

// A limit on tokens holds for both models together.
func TestTokensOfBothModels(t *testing.T) {
	noneLeft(t)
	m := model(t)
	far := start(t, m, nil)
	dead := startFaulty(t, func(int, net.Conn, *http.Request) {})
	qs, _ := longest(t, m)
	p := slmrt.DefaultPolicy()
	p.Handoff.Hold, p.Handoff.Partial = false, true
	row := deferral.Row{Pre: never, Mid: hit, Post: never, OOD: never, Checkpoint: deferral.Mid}
	const most = deferral.MidEvery + 3
	for url, served := range map[string]string{far.url: "local+remote", dead.url: "local"} {
		r := start(t, routed(t, m, row), func(s *serve.Config) { s.Policy, s.Upstream = p, upstream(t, url, nil) })
		for _, q := range qs {
			a := ask(t, r, chatPath, chat("auto", q, "stream", true, "max_tokens", most, "stream_options", map[string]any{"include_usage": true}))
			if a.finish != "length" || a.usage.CompletionTokens != most || a.slmc.Served != served || a.slmc.Certified {
				t.Errorf("%q: %+v, wanted %d tokens of %s", q, a, most, served)
			}
		}
		r.stop()
	}
}

// A doubtful answer that may not leave is given with a warning, or not at all.
func TestDoubtfulAndPrivate(t *testing.T) {
	noneLeft(t)
	m := model(t)
	far := start(t, m, nil)
	qs, want := longest(t, m)
	private := map[string]string{"privacy": "private"}
	for _, row := range []deferral.Row{
		{Pre: hit, Mid: never, Post: never, OOD: never, Checkpoint: deferral.Pre},
		{Pre: never, Mid: hit, Post: never, OOD: never, Checkpoint: deferral.Mid},
		{Pre: never, Mid: never, Post: hit, OOD: never},
	} {
		for _, stream := range []bool{true, false} {
			for _, then := range []slmrt.Act{slmrt.ActWarn, slmrt.ActAbstain} {
				p := slmrt.DefaultPolicy()
				p.Unsent.Then = then
				r := start(t, routed(t, m, row), func(s *serve.Config) { s.Policy, s.Upstream = p, upstream(t, far.url, nil) })
				a := ask(t, r, chatPath, chat("auto", qs[0], "stream", stream, "slmc", private))
				switch {
				case a.slmc.Reason != "privacy":
					t.Errorf("%s: %+v", row.Checkpoint, a)
				case then == slmrt.ActWarn && (a.text != want[0] || a.slmc.Outcome != "LOCAL_WITH_WARNING"):
					t.Errorf("%s: %+v, wanted %q with a warning", row.Checkpoint, a, want[0])
				case then == slmrt.ActAbstain && (a.text != "" || a.refusal == "" || a.slmc.Outcome != "ABSTAIN" || a.done != stream):
					t.Errorf("%s: %+v, wanted a refusal and no text", row.Checkpoint, a)
				}
				r.stop()
			}
		}
	}
	if len(logged(t, far)) != 0 {
		t.Error("a private query left")
	}
}

// An audit that reaches nobody takes nothing of the budget.
func TestFailedAuditCostsNothing(t *testing.T) {
	noneLeft(t)
	m := model(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	row := deferral.Row{Pre: miss, Mid: never, Post: never, OOD: never, Checkpoint: deferral.Pre}
	r := start(t, routed(t, m, row), func(s *serve.Config) {
		s.Upstream, s.AuditRate, s.Rand = upstream(t, url, nil), 1, rand.New(rand.NewPCG(1, 2))
		s.Policy.Budget.Calls, s.Policy.Budget.WindowS = 1, 3600
	})
	for i, q := range queries(t)[:3] {
		ask(t, r, chatPath, chat("auto", q))
		want, body := fmt.Sprintf(`slmc_audits_total{result="failed"} %d`, i+1), ""
		for range 1000 {
			if _, body = get(t, r.url+"/metrics", nil); strings.Contains(body, want) || strings.Contains(body, `result="skipped"`) {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if !strings.Contains(body, want) {
			t.Fatalf("after %d audits that reached nobody the metrics lack %s: the budget was charged", i+1, want)
		}
	}
}

// Audits: the share that is drawn, what the log and the metrics say, and what the
// summary makes of it.
func TestAudits(t *testing.T) {
	noneLeft(t)
	m := model(t)
	qs := queries(t)[:30]
	far := start(t, m, nil)
	liar := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) {
		fmt.Fprint(c, jsonAnswer("200 OK", `{"choices":[{"message":{"content":"something else"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`))
	})
	for _, c := range []struct {
		name, url string
		row       deferral.Row
		n, differ int
	}{
		{"agree", far.url, deferral.Row{Pre: miss, Mid: never, Post: never, OOD: never, Checkpoint: deferral.Pre}, 30, 0},
		{"differ", liar.url, deferral.Row{Pre: miss, Mid: never, Post: never, OOD: never, Checkpoint: deferral.Pre}, 30, 30},
		{"handed off", far.url, deferral.Row{Pre: hit, Mid: never, Post: never, OOD: never, Checkpoint: deferral.Pre}, 30, 0},
	} {
		rm := routed(t, m, c.row)
		r := start(t, rm, func(s *serve.Config) {
			s.Upstream, s.AuditRate, s.Rand, s.LogText = upstream(t, c.url, nil), 1, rand.New(rand.NewPCG(1, 2)), true
		})
		for i, q := range qs {
			ask(t, r, chatPath, chat("auto", q))
			for done := 0; done <= i; { // audits follow the answer; more than a few at once are skipped
				done = 0
				_, body := get(t, r.url+"/metrics", nil)
				for line := range strings.Lines(body) {
					var n int
					if name, rest, ok := strings.Cut(line, "} "); ok && strings.HasPrefix(name, "slmc_audits_total") {
						if _, err := fmt.Sscan(rest, &n); err == nil {
							done += n
						}
					}
				}
			}
		}
		_, body := get(t, r.url+"/metrics", nil)
		for _, want := range []string{"slmc_audit_ln_e ", `slmc_score_psi{checkpoint="pre"}`, `slmc_score_psi{checkpoint="ood"}`, `slmc_score_window{checkpoint="pre"} 30`} {
			if !strings.Contains(body, want) {
				t.Errorf("%s: metrics lack %s", c.name, want)
			}
		}
		logged(t, r)
		s, err := audit.Summarize(strings.NewReader(r.log.String()), audit.Options{Router: rm.Router(), Row: c.row, Bound: 0.02, Alpha: 0.01})
		if err != nil {
			t.Fatal(err)
		}
		if s.Audit.N != c.n || s.Audit.Open != c.differ || s.Audit.Losses != 0 || s.Certified != 30 || len(s.Drift) != 2 || s.Drift[0].N != 30 || s.Drift[0].PSI <= 0.1 || s.Drift[1].N != 30 || s.Drift[1].PSI <= 0.1 {
			t.Errorf("%s: %+v, %+v, drift %+v", c.name, s, s.Audit, s.Drift)
		}
		if c.differ > 0 && s.Audit.EValueOpen < 10 || c.differ == 0 && s.Audit.EValueOpen > 0 {
			t.Errorf("%s: evidence %g", c.name, s.Audit.EValueOpen)
		}
		// What the log is for goes on from here.
		found, _, err := audit.Queries(bytes.NewReader([]byte(r.log.String())), nil)
		if err != nil || len(found) != 30 || found[0].Large == "" {
			t.Errorf("%s: %d queries, %v", c.name, len(found), err)
		}
	}
}

// A query that neither model takes is no answer of this one, and the log says so.
func TestNeitherModelCould(t *testing.T) {
	noneLeft(t)
	far := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) { fmt.Fprint(c, jsonAnswer("400 Bad Request", "{}")) })
	m := routed(t, model(t), deferral.Row{Pre: never, Mid: never, Post: never, OOD: never})
	r := start(t, m, func(c *serve.Config) { c.Upstream = upstream(t, far.url, nil) })
	tools := []any{map[string]any{"type": "function", "function": map[string]any{"name": "f"}}}
	a := ask(t, r, chatPath, chat("auto", timer, "tools", tools))
	if a.status != 400 || a.errors != "refused" || a.slmc.Outcome != "ABSTAIN" || a.slmc.Reason != "upstream" || a.slmc.Served != "" {
		t.Errorf("%+v", a)
	}
	r.stop()
	if e := logged(t, r); len(e) != 1 || e[0].Outcome != slmrt.Abstain || e[0].Reason != slmrt.ReasonUpstream || e[0].Served != "" {
		t.Errorf("log: %+v", e)
	}
}

// A body that is no object is told so, in words of this API.
func TestBodyIsNoObject(t *testing.T) {
	r := start(t, model(t), nil)
	for body, want := range map[string]string{
		"null": "the body is not a JSON object", "[]": "the body is not a JSON object", "{bad": "the body is not JSON: at byte 2", "{} x": "the body is not JSON: at byte 4",
	} {
		resp, err := http.Post(r.url+chatPath, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if a := readAnswer(t, resp); a.status != 400 || !strings.Contains(a.body, `"message":"`+want) {
			t.Errorf("%s: %s", body, a.body)
		}
	}
}
