package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"slmc/formats/bundle"
	"slmc/internal/deferral"
	"slmc/internal/pipeline"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
)

const tinySource = "../../testdata/assistant-tiny"

// slmcRun runs a command and demands an exit code.
func slmcRun(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := run(append([]string{"slmc"}, args...), strings.NewReader(""), &out, &errs); got != code {
		t.Fatalf("slmc %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, code, errs.String())
	}
	return out.String(), errs.String()
}

// routerQueries writes enough queries to train a router on: those of testdata
// in a few wordings, and the answers of a large model that knows nearly all.
func routerQueries(t *testing.T, dir string) (queries, answers string) {
	t.Helper()
	f, err := os.Open("../../testdata/requests.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var q, a bytes.Buffer
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		var row struct{ Query, Call string }
		if err := json.Unmarshal(s.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{"%s", "please %s", "%s now"} {
			text, answer := fmt.Sprintf(form, row.Query), row.Call
			if n++; n%9 == 0 {
				answer = "sorry()"
			}
			line := func(out *bytes.Buffer, v map[string]string) {
				data, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				out.Write(append(data, '\n'))
			}
			line(&q, map[string]string{"query": text, "call": row.Call, "source": "testdata"})
			line(&a, map[string]string{"query": text, "answer": answer})
		}
	}
	queries, answers = filepath.Join(dir, "queries.jsonl"), filepath.Join(dir, "answers.jsonl")
	for path, data := range map[string][]byte{queries: q.Bytes(), answers: a.Bytes()} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return queries, answers
}

// One command builds a bundle with a router; the commands one by one give the
// same router, and the same bytes whatever the number of threads.
func TestBuildWithRouter(t *testing.T) {
	dir := t.TempDir()
	queries, answers := routerQueries(t, dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	common := []string{"--bound", "0.3", "--known", "0.95", "--json"}

	slmcRun(t, 0, append([]string{"build", tinySource, "-o", at("one.slmb"), "--router", queries, "--large", answers, "--cache", at("cache")}, common...)...)
	out, _ := slmcRun(t, 0, append([]string{"build", tinySource, "-o", at("two.slmb"), "--router", queries, "--large", answers, "--cache", at("cache"), "--threads", "1"}, common...)...)
	var report pipeline.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if cached := strings.Join(report.Cached, " "); !strings.Contains(cached, "label") || !strings.Contains(cached, "router") {
		t.Errorf("the second build took %q from the cache, want label and router too", cached)
	}
	one, err := os.ReadFile(at("one.slmb"))
	if err != nil {
		t.Fatal(err)
	}
	if two, err := os.ReadFile(at("two.slmb")); err != nil || !bytes.Equal(one, two) {
		t.Errorf("two builds differ (%v)", err)
	}

	slmcRun(t, 0, "build", tinySource, "-o", at("plain.slmb"), "--cache", at("cache"))
	slmcRun(t, 0, "label", at("plain.slmb"), queries, "--large", answers, "-o", at("labels.jsonl"))
	slmcRun(t, 0, append([]string{"train-router", at("plain.slmb"), at("labels.jsonl"), "-o", at("by-hand.slmb"), "--threads", "1", "--report", at("report.html"), "--split", at("split.json")}, common...)...)
	// But for the digest of the label file, which names the bundle that made it.
	section := func(path string) []byte {
		b, err := bundle.Open(path, bundle.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		r, err := deferral.Decode(bytes.Clone(b.Section(bundle.SectionRouter)))
		if err != nil {
			t.Fatal(err)
		}
		p := r.Parts()
		p.Table.Split = ""
		if r, err = deferral.New(p); err != nil {
			t.Fatal(err)
		}
		text, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if a, b := section(at("one.slmb")), section(at("by-hand.slmb")); len(a) == 0 || !bytes.Equal(a, b) {
		t.Errorf("build's router has %d bytes, train-router's %d: want the same", len(a), len(b))
	}
	// Examples that are queries of the router teach nothing: the certificate would be
	// of queries that the second opinion knows.
	_, warned := slmcRun(t, 0, append([]string{"train-router", at("plain.slmb"), at("labels.jsonl"), "-o", at("known.slmb"), "--examples", queries}, common...)...)
	if !bytes.Equal(section(at("known.slmb")), section(at("by-hand.slmb"))) || !strings.Contains(warned, "among the examples") {
		t.Errorf("the second opinion was taught the answers that it is certified on, or nothing says that it was not: %s", warned)
	}
	page, err := os.ReadFile(at("report.html"))
	if err != nil || !bytes.Contains(page, []byte("<svg")) || bytes.Contains(page, []byte("<script")) || bytes.Contains(page, []byte("http-equiv=\"refresh")) {
		t.Errorf("the report is no page of its own: %v", err)
	}
	slmcRun(t, 0, "verify", at("one.slmb"))

	checkEval(t, at("one.slmb"), queries, answers)
	checkUndefined(t, at("one.slmb"), dir)
	checkCertify(t, at, queries)
	// The router belongs to these weights.
	slmcRun(t, 0, "build", tinySource, "-o", at("w4.slmb"), "--weights", "w4", "--cache", at("cache"))
	slmcRun(t, 4, "train-router", at("w4.slmb"), at("labels.jsonl"), "-o", at("no.slmb"))
	slmcRun(t, 0, "label", at("w4.slmb"), queries, "--large", answers, "-o", at("w4.jsonl"))
	slmcRun(t, 4, "certify", at("by-hand.slmb"), at("w4.jsonl"))
}

// The keys that eval promises, and readings like those that training saw.
func checkEval(t *testing.T, path, queries, answers string) {
	out, _ := slmcRun(t, 0, "eval", path, "--task", queries, "--large", answers, "--json")
	var got struct {
		ExactMatch float64 `json:"exact_match"`
		Deferral   map[string]any
		Details    map[string]any `json:"deferral_details"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	want := []string{"auroc_entropy", "auroc_mid", "auroc_post", "auroc_pre", "bound", "bound_violated", "deferral_rate", "delta", "ece", "gap_closed", "quality"}
	if keys := slices.Sorted(maps.Keys(got.Deferral)); !slices.Equal(keys, want) || len(got.Details) == 0 {
		t.Errorf("deferral has the keys %q, want %q; %d details", keys, want, len(got.Details))
	}
	if got.Deferral["bound"] != 0.3 || got.Deferral["delta"] != 0.05 {
		t.Errorf("bound %v, delta %v", got.Deferral["bound"], got.Deferral["delta"])
	}
}

// Of rows that the model all answers wrongly no AUROC can be told.
func checkUndefined(t *testing.T, path, dir string) {
	rows, answers := filepath.Join(dir, "wrong.jsonl"), filepath.Join(dir, "wrong.answers.jsonl")
	for file, text := range map[string]string{
		rows:    `{"query":"mute","call":"nobody says this"}` + "\n" + `{"query":"lights on","call":"nor this"}` + "\n",
		answers: `{"query":"mute","answer":"nobody says this"}` + "\n" + `{"query":"lights on","answer":"no"}` + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, _ := slmcRun(t, 0, "eval", path, "--task", rows, "--large", answers, "--json")
	if !strings.Contains(text, `"auroc_post":null`) {
		t.Errorf("no null in %s", text)
	}
	if text, _ = slmcRun(t, 0, "eval", path, "--task", rows, "--large", answers); !strings.Contains(text, "undefined after it") || !strings.Contains(text, "of these 2 none is right") {
		t.Errorf("the text does not say what is undefined, or why: %s", text)
	}
}

func checkCertify(t *testing.T, at func(string) string, queries string) {
	out, _ := slmcRun(t, 0, "certify", at("by-hand.slmb"), at("labels.jsonl"), "--bound", "0.4", "--delta", "0.1", "--resplits", "20", "-o", at("again.slmb"), "--json")
	var got pipeline.CertifyResult
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Limit != routertrain.LimitExact {
		t.Errorf("scores of 0 and 1 are bounded by %q", got.Limit)
	}
	graded, _ := slmcRun(t, 0, "certify", at("by-hand.slmb"), at("labels.jsonl"), "--bound", "0.4", "--delta", "0.1", "--limit", "empirical_bernstein")
	if !strings.Contains(graded, "limits by empirical Bernstein") {
		t.Errorf("the certificate does not name its rule: %s", graded)
	}
	slmcRun(t, 2, "certify", at("by-hand.slmb"), at("labels.jsonl"), "--limit", "best")
	m, b, err := slmrt.Load(at("again.slmb"), slmrt.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	table := m.Router().Table()
	if table.Bound != 0.4 || table.Rows[0].Delta != 0.1 || table.Rows[0].N != got.Queries || len(got.Resplits) == 0 {
		t.Errorf("table with bound %g, delta %g, n %d; %d resplits", table.Bound, table.Rows[0].Delta, table.Rows[0].N, len(got.Resplits))
	}
	labels, err := routertrain.ReadLabels(at("labels.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Queries >= len(labels.Rows)/2 {
		t.Errorf("certified on %d of %d queries: training has seen some of them", got.Queries, len(labels.Rows))
	}
	checkRuntimeReadsAsTraining(t, m, labels)

	// The same queries labelled again are another file: those that training may have
	// seen stay out of the certificate, unless somebody vouches for them.
	slmcRun(t, 2, "certify", at("by-hand.slmb"), at("labels.jsonl"), "--fresh")
	slmcRun(t, 0, "label", at("by-hand.slmb"), queries, "--large", filepath.Join(filepath.Dir(queries), "answers.jsonl"), "-o", at("relabelled.jsonl"))
	certified := func(args ...string) int {
		out, _ := slmcRun(t, 0, append([]string{"certify", at("by-hand.slmb"), at("relabelled.jsonl"), "--bound", "0.4", "--json"}, args...)...)
		var got pipeline.CertifyResult
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		return got.Queries
	}
	safe := 0
	for _, l := range labels.Rows {
		if routertrain.DefaultSplit().Part(l.ID) != routertrain.Train {
			safe++
		}
	}
	if n, all := certified(), certified("--fresh"); n != safe || all != len(labels.Rows) {
		t.Errorf("labelled again, %d queries are certified on, %d with --fresh; want %d and %d", n, all, safe, len(labels.Rows))
	}
}

// What the runtime says along a generation is what training computed.
func checkRuntimeReadsAsTraining(t *testing.T, m *slmrt.Model, labels *routertrain.Labels) {
	var texts []string
	var queries []routertrain.Query
	for _, r := range labels.Rows[:40] {
		texts, queries = append(texts, r.Query), append(queries, routertrain.Query{Text: r.Query})
	}
	examples, err := routertrain.Extract(t.Context(), m, texts, slmrt.Options{}, 2, 256, nil)
	if err != nil {
		t.Fatal(err)
	}
	rule, err := routertrain.ScorerByName("exact_match")
	if err != nil {
		t.Fatal(err)
	}
	answered, err := routertrain.Answer(t.Context(), m, queries, routertrain.LabelConfig{Header: routertrain.Header{MaxTokens: 256}, Score: routertrain.ByRule(rule), Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range routertrain.ScoreAll(m.Router(), examples) {
		got := answered[i].Readings
		if len(got) != len(want) {
			t.Fatalf("%q: the runtime reads %d times, training %d", texts[i], len(got), len(want))
		}
		for k := range want {
			if got[k] != want[k] {
				t.Errorf("%q: the runtime reads %+v, training %+v", texts[i], got[k], want[k])
			}
		}
		post := examples[i].Post
		if s := (routertrain.Signals{Entropy: float64(post[deferral.MeanEntropy]), LogProb: float64(post[deferral.SumLogProb])}); s != answered[i].Signals && abs32(s.LogProb-answered[i].Signals.LogProb) > 1e-5 {
			t.Errorf("%q: signals %+v and %+v", texts[i], s, answered[i].Signals)
		}
	}
}

func abs32(x float64) float64 { return max(x, -x) }

// A bound that no row keeps is exit code 5, names the nearest, and writes
// nothing.
func TestInfeasibleBoundIsRefused(t *testing.T) {
	dir := t.TempDir()
	queries, answers := routerQueries(t, dir)
	out := filepath.Join(dir, "no.slmb")
	_, errs := slmcRun(t, 5, "build", tinySource, "-o", out, "--router", queries, "--large", answers, "--cache", filepath.Join(dir, "cache"), "--bound", "0.0001")
	nearest := regexp.MustCompile(`nearest feasible bound is ([0-9.e-]+)`).FindStringSubmatch(errs)
	if nearest == nil {
		t.Fatalf("message %q", errs)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused bundle is there: %v", err)
	}
	// What it names can be had.
	slmcRun(t, 0, "build", tinySource, "-o", filepath.Join(dir, "yes.slmb"), "--router", queries, "--large", answers, "--cache", filepath.Join(dir, "cache"), "--bound", nearest[1])
	slmcRun(t, 2, "build", tinySource, "-o", out, "--router", queries)
	slmcRun(t, 2, "build", tinySource, "-o", out, "--router", queries, "--large", answers, "--decide", string(deferral.Mid), "--cache", filepath.Join(dir, "cache"))
	slmcRun(t, 2, "eval", tinySource, "--task", queries, "--large", answers)
}

// Nobody who answers for the large model is found out before anything is computed,
// and labels that are in the cache need nobody.
func TestLargeModelIsProbedFirst(t *testing.T) {
	dir := t.TempDir()
	queries, _ := routerQueries(t, dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	cloud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"data":[],"choices":[{"message":{"content":"weather()"}}]}`)
	}))
	build := func(code int, large string, args ...string) string {
		_, errs := slmcRun(t, code, append([]string{"build", tinySource, "-o", at("x.slmb"), "--router", queries, "--large", large, "--large-attempts", "1",
			"--bound", "0.9", "--cache", at("cache")}, args...)...)
		return errs
	}
	build(0, cloud.URL)
	cloud.Close()
	build(0, cloud.URL)
	cached := func() int {
		files, err := os.ReadDir(at("cache"))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	before := cached()
	if errs := build(1, cloud.URL, "--weights", "w4"); !strings.Contains(errs, "large model: ") {
		t.Errorf("a dead endpoint: %s", errs)
	}
	for _, name := range []string{"nobody/has-this", at("missing.slmb")} {
		if _, errs := slmcRun(t, 1, "label", at("x.slmb"), queries, "--large", name, "-o", at("no.jsonl")); !strings.Contains(errs, "large model: ") {
			t.Errorf("%s: %s", name, errs)
		}
	}
	if errs := build(1, "nobody/has-this", "--weights", "w4"); !strings.Contains(errs, "large model: ") {
		t.Errorf("a model that is nowhere: %s", errs)
	}
	if n := cached(); n != before {
		t.Errorf("%d results were computed before the large model was missed", n-before)
	}
	// Others on the way would read the key.
	t.Setenv(keyVariable, "secret")
	if errs := build(2, "http://cloud.example"); !strings.Contains(errs, "unencrypted") || strings.Contains(errs, "secret") {
		t.Errorf("a key in the clear: %s", errs)
	}
}

// A redacted label file keeps no text, and training finds it in the queries. A
// run that was stopped goes on where it was.
func TestRedactedLabelsAndResume(t *testing.T) {
	dir := t.TempDir()
	queries, answers := routerQueries(t, dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	slmcRun(t, 0, "build", tinySource, "-o", at("a.slmb"), "--cache", at("cache"))
	slmcRun(t, 0, "label", at("a.slmb"), queries, "--large", answers, "-o", at("labels.jsonl"), "--redact", "drop")
	text, err := os.ReadFile(at("labels.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("volume")) || bytes.Contains(text, []byte(`"query"`)) {
		t.Error("a redacted label file holds text")
	}
	slmcRun(t, 2, "train-router", at("a.slmb"), at("labels.jsonl"), "-o", at("b.slmb"), "--bound", "0.3")
	slmcRun(t, 0, "train-router", at("a.slmb"), at("labels.jsonl"), "-o", at("b.slmb"), "--bound", "0.4", "--queries", queries)

	// What a kill left: 40 rows, and half of another.
	lines := bytes.SplitAfter(text, []byte("\n"))
	part := append(bytes.Join(lines[:41], nil), lines[41][:20]...)
	if err := os.WriteFile(at("again.jsonl.part"), part, 0o600); err != nil {
		t.Fatal(err)
	}
	slmcRun(t, 0, "label", at("a.slmb"), queries, "--large", answers, "-o", at("again.jsonl"), "--redact", "drop")
	if again, err := os.ReadFile(at("again.jsonl")); err != nil || !bytes.Equal(again, text) {
		t.Errorf("a resumed label file differs (%v)", err)
	}
	if err := os.WriteFile(at("other.jsonl.part"), part, 0o600); err != nil {
		t.Fatal(err)
	}
	slmcRun(t, 2, "label", at("a.slmb"), queries, "--large", answers, "-o", at("other.jsonl")) // other settings
}
