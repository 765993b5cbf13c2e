package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"slmc/internal/deferral"
	routertrain "slmc/router_train"
)

// published reads label sets of others and prints what the metrics make of them:
// the models' accuracies, what an oracle defers for the large model's quality,
// and rows certified for a score that knows the query's length and nothing else.
func published(_ context.Context, args []string) error {
	if err := want(args, 2); err != nil {
		return err
	}
	sets := []struct {
		name string
		read func() ([]routertrain.Scored, error)
	}{
		{"gsm8k 6B and 175B, finetuned", func() ([]routertrain.Scored, error) {
			return readGSM8K(filepath.Join(args[0], "example_model_solutions.jsonl"), "6b_finetuning", "175b_finetuning")
		}},
		{"gsm8k 6B and 175B, with verification", func() ([]routertrain.Scored, error) {
			return readGSM8K(filepath.Join(args[0], "example_model_solutions.jsonl"), "6b_verification", "175b_verification")
		}},
		{"gsm8k Mixtral and GPT-4", func() ([]routertrain.Scored, error) {
			return readCSV(filepath.Join(args[1], "gsm8k_responses.csv"))
		}},
		{"mmlu Mixtral and GPT-4", func() ([]routertrain.Scored, error) {
			return readMMLU(filepath.Join(args[1], "mmlu.jsonl.gz"))
		}},
	}
	for _, s := range sets {
		rows, err := s.read()
		if errors.Is(err, os.ErrNotExist) {
			fmt.Printf("%s: skipped, %v\n", s.name, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		show(s.name, rows)
	}
	return nil
}

func show(name string, rows []routertrain.Scored) {
	score, _, small, large, _ := columns(rows, deferral.Pre)
	oracle := routertrain.Oracle(small, large)
	n := len(rows)
	fmt.Printf("%s: n %d, small %.2f %%, large %.2f %%, oracle reaches the large model's at %.2f %% deferred and its best, %.2f %%, at %.2f %%\n",
		name, n, 100*oracle.Quality[0], 100*oracle.Quality[n], 100*oracle.Reach(oracle.Quality[n]), 100*best(oracle), 100*oracle.Reach(best(oracle)))
	c := routertrain.DefaultCertify()
	c.Known, c.Checkpoint = 1, deferral.Pre
	table := routertrain.NewTable(c, map[deferral.Checkpoint][]float32{deferral.Pre: routertrain.Grid(c, score)}, rows, "")
	for _, bound := range []float64{0.05, 0.1} {
		r := routertrain.Resplit(rows, &table, c.Limit, deferral.Pre, bound, 1000, 1)
		row, err := table.Pick(deferral.Pre, bound)
		if err != nil {
			fmt.Printf("  bound %g: %v\n", bound, err)
			continue
		}
		fmt.Printf("  bound %g, score from the query's length: %.1f %% deferred, loss %.4f, limit %.4f; of 1,000 draws %d feasible, true loss above the bound in %d\n",
			bound, 100*row.DeferralRate, row.Loss, row.Bound, r.Feasible, r.Violated)
	}
}

func best(c routertrain.Curve) float64 {
	q := c.Quality[0]
	for _, x := range c.Quality {
		q = max(q, x)
	}
	return q
}

// scored is a row of a set: the score falls with the query's length, so that no
// model is needed; it is a poor one.
func scored(query string, small, large bool) routertrain.Scored {
	s := routertrain.Scored{ID: routertrain.QueryID(query)}
	if small {
		s.Small = 1
	}
	if large {
		s.Large = 1
	}
	x := float32(len(query)) / float32(len(query)+300)
	s.Readings = []deferral.Reading{{Checkpoint: deferral.Pre, Score: x, Wrong: x}}
	return s
}

func readGSM8K(path, small, large string) (out []routertrain.Scored, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var row map[string]json.RawMessage
		if err := json.Unmarshal(in.Bytes(), &row); err != nil {
			return nil, err
		}
		var q string
		var a, b struct {
			Right bool `json:"is_correct"`
		}
		if err := errors.Join(json.Unmarshal(row["question"], &q), json.Unmarshal(row[small], &a), json.Unmarshal(row[large], &b)); err != nil {
			return nil, err
		}
		out = append(out, scored(q, a.Right, b.Right))
	}
	return out, in.Err()
}

func readCSV(path string) (out []routertrain.Scored, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := csv.NewReader(f)
	if _, err := r.Read(); err != nil {
		return nil, err
	}
	for {
		row, err := r.Read()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, scored(row[0], row[1] == "True", row[2] == "True"))
	}
}

func readMMLU(path string) (out []routertrain.Scored, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	in := bufio.NewScanner(z)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var row struct {
			Prompt       string
			Small, Large bool
		}
		if err := json.Unmarshal(in.Bytes(), &row); err != nil {
			return nil, err
		}
		out = append(out, scored(row.Prompt, row.Small, row.Large))
	}
	return out, in.Err()
}
