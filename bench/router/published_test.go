package main

import (
	"compress/gzip"
	"math"
	"os"
	"path/filepath"
	"testing"

	"slmc/internal/deferral"
	routertrain "slmc/router_train"
)

// figures are what a label set gives: the models' accuracies, and the share that
// an oracle defers for the large model's quality.
func figures(rows []routertrain.Scored) [3]float64 {
	_, _, small, large, _ := columns(rows, deferral.Pre)
	o := routertrain.Oracle(small, large)
	n := len(rows)
	return [3]float64{o.Quality[0], o.Quality[n], o.Reach(o.Quality[n])}
}

func compare(t *testing.T, name string, got, want [3]float64) {
	t.Helper()
	for i, what := range []string{"small", "large", "oracle's deferral"} {
		if math.Abs(got[i]-want[i]) > 5e-5 {
			t.Errorf("%s: %s %.4f, want %.4f", name, what, got[i], want[i])
		}
	}
}

// Sets of four queries in the forms of the published ones: the small model is
// right twice, the large one three times, once only the small one.
func TestFormsOfPublishedLabels(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	want := [3]float64{0.5, 0.75, 0.25}
	gsm := write("gsm.jsonl", `{"question":"a","s":{"is_correct":true},"l":{"is_correct":false}}
{"question":"bb","s":{"is_correct":true},"l":{"is_correct":true}}
{"question":"ccc","s":{"is_correct":false},"l":{"is_correct":true}}
{"question":"dddd","s":{"is_correct":false},"l":{"is_correct":true}}
`)
	rows, err := readGSM8K(gsm, "s", "l")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "gsm8k", figures(rows), want)
	rows, err = readCSV(write("r.csv", "prompt,m,g,mr,gr\n\"a,\nx\",True,False,,\nb,True,True,,\nc,False,True,,\nd,False,True,,\n"))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "csv", figures(rows), want)
	path := filepath.Join(dir, "m.gz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	if _, err := z.Write([]byte(`{"prompt":"a","small":true,"large":false}
{"prompt":"b","small":true,"large":true}
{"prompt":"c","small":false,"large":true}
{"prompt":"d","small":false,"large":true}
`)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if rows, err = readMMLU(path); err != nil {
		t.Fatal(err)
	}
	compare(t, "mmlu", figures(rows), want)
}

// The accuracies of the published sets (Cobbe et al., arXiv 2110.14168; Ong et al.,
// arXiv 2406.18665), as their labels give them.
func TestPublishedAccuracies(t *testing.T) {
	const shared = "../../../shared/data"
	for _, c := range []struct {
		name, file string
		read       func(path string) ([]routertrain.Scored, error)
		want       [3]float64
	}{
		{"6B and 175B", "gsm8k/example_model_solutions.jsonl", func(p string) ([]routertrain.Scored, error) {
			return readGSM8K(p, "6b_finetuning", "175b_finetuning")
		}, [3]float64{0.2168, 0.3472, 0.1304}},
		{"Mixtral and GPT-4, GSM8K", "routellm/gsm8k_responses.csv", readCSV, [3]float64{0.6384, 0.8567, 0.2183}},
		{"Mixtral and GPT-4, MMLU", "routellm/mmlu.jsonl.gz", readMMLU, [3]float64{0.6808, 0.8058, 0.1250}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(shared, c.file)
			if _, err := os.Stat(path); err != nil {
				t.Skipf("lacks %s, which is not part of the repository", path)
			}
			rows, err := c.read(path)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, c.name, figures(rows), c.want)
		})
	}
}
