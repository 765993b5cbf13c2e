package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"text/tabwriter"

	"slmc/formats/bundle"
	"slmc/internal/deferral"
	"slmc/internal/pipeline"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
)

// trainAndScore trains a router for a model and lets it read test labels, which
// the model answers.
func trainAndScore(ctx context.Context, m *slmrt.Model, labels, test *routertrain.Labels, examples, on []routertrain.Example, pairs []routertrain.Pair, c routertrain.Config) ([]routertrain.Scored, error) {
	t, err := routertrain.Fit(ctx, routertrain.Data{Model: m, Labels: labels, Examples: examples, Pairs: pairs}, c, 2, slog.Default())
	if err != nil {
		return nil, err
	}
	var out []routertrain.Scored
	for i, r := range routertrain.ScoreAll(t.Router, on) {
		out = append(out, routertrain.NewScored(&test.Rows[i], r))
	}
	return out, nil
}

func texts(l *routertrain.Labels) (out []string) {
	for _, r := range l.Rows {
		out = append(out, r.Query)
	}
	return out
}

func columns(rows []routertrain.Scored, at deferral.Checkpoint) (score, wrongScore, small, large, wrong []float64) {
	for i := range rows {
		x := rows[i].At(at)
		score, wrongScore = append(score, float64(x.Score)), append(wrongScore, float64(x.Wrong))
		small, large, wrong = append(small, rows[i].Small), append(large, rows[i].Large), append(wrong, 1-rows[i].Small)
	}
	return
}

// hybrid prints the drop in points against all large, at 10, 20 and 40 % sent to
// the small model, with heads taught each kind of target.
func hybrid(ctx context.Context, args []string) error {
	if err := want(args, 4); err != nil {
		return err
	}
	m, _, err := slmrt.Load(args[0], slmrt.LoadOptions{})
	if err != nil {
		return err
	}
	labels, err := routertrain.ReadLabels(args[1])
	if err != nil {
		return err
	}
	pairs, err := pipeline.ReadPairs(args[2], pipeline.Fields{})
	if err != nil {
		return err
	}
	test, err := routertrain.ReadLabels(args[3])
	if err != nil {
		return err
	}
	examples, err := routertrain.Extract(ctx, m, texts(labels), slmrt.Options{}, 2, 256, nil)
	if err != nil {
		return err
	}
	on, err := routertrain.Extract(ctx, m, texts(test), slmrt.Options{}, 2, 256, nil)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "targets\treads\t10 %\t20 %\t40 %\tgap closed")
	c := routertrain.DefaultConfig()
	c.Split.Train, c.Split.Cal = 0.6, 0.4
	for _, target := range routertrain.Targets() {
		c.Targets = target
		rows, err := trainAndScore(ctx, m, labels, test, examples, on, pairs, c)
		if err != nil {
			return err
		}
		for _, at := range []deferral.Checkpoint{deferral.Pre, deferral.Post} {
			score, _, small, large, _ := columns(rows, at)
			q := routertrain.NewCurve(score, small, large).Quality
			n := len(q) - 1
			fmt.Fprintf(w, "%s\t%s", target, at)
			for _, share := range []float64{0.1, 0.2, 0.4} {
				fmt.Fprintf(w, "\t%.2f", 100*(q[n]-q[n-int(share*float64(n)+0.5)]))
			}
			fmt.Fprintf(w, "\t%.3f\n", routertrain.GapClosed(score, small, large))
		}
	}
	return w.Flush()
}

// reuse compares a router that was trained on the float model with one that was
// trained on the bundle, both reading the bundle.
func reuse(ctx context.Context, args []string) error {
	if err := want(args, 6); err != nil {
		return err
	}
	b, err := bundle.Open(args[0], bundle.Options{})
	if err != nil {
		return err
	}
	packed, err := slmrt.FromBundle(b)
	if err != nil {
		return err
	}
	o, err := pipeline.Open(ctx, args[4], pipeline.Env{})
	if err != nil {
		return err
	}
	float, err := o.Runtime(packed.Context)
	if err != nil {
		return err
	}
	pairs, err := pipeline.ReadPairs(args[2], pipeline.Fields{})
	if err != nil {
		return err
	}
	test, err := routertrain.ReadLabels(args[3])
	if err != nil {
		return err
	}
	on, err := routertrain.Extract(ctx, packed, texts(test), slmrt.Options{}, 2, 256, nil)
	if err != nil {
		return err
	}
	c := routertrain.DefaultConfig()
	c.Split.Train, c.Split.Cal = 0.6, 0.4
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "trained on\treads\tAUROC\tcalibration error\tgap closed\tdeferred for 1 point\tfor 2 points")
	var all [][]routertrain.Scored
	for _, side := range []struct {
		name   string
		m      *slmrt.Model
		labels string
	}{{"float weights", float, args[5]}, {"the bundle", packed, args[1]}} {
		labels, err := routertrain.ReadLabels(side.labels)
		if err != nil {
			return err
		}
		examples, err := routertrain.Extract(ctx, side.m, texts(labels), slmrt.Options{}, 2, 256, nil)
		if err != nil {
			return err
		}
		rows, err := trainAndScore(ctx, side.m, labels, test, examples, on, pairs, c)
		if err != nil {
			return err
		}
		all = append(all, rows)
		for _, at := range []deferral.Checkpoint{deferral.Pre, deferral.Post} {
			score, wrongScore, small, large, wrong := columns(rows, at)
			curve := routertrain.NewCurve(score, small, large)
			top := curve.Quality[len(rows)]
			fmt.Fprintf(w, "%s\t%s\t%.4f\t%.4f\t%.3f\t%.1f %%\t%.1f %%\n", side.name, at, routertrain.AUROC(wrongScore, wrong),
				routertrain.ECE(wrongScore, wrong, routertrain.ECEBins), routertrain.GapClosed(score, small, large), 100*curve.Reach(top-0.01), 100*curve.Reach(top-0.02))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, at := range []deferral.Checkpoint{deferral.Pre, deferral.Post} {
		_, a, _, _, wrong := columns(all[0], at)
		_, b, _, _, _ := columns(all[1], at)
		d := routertrain.PairedBootstrap(a, b, wrong, routertrain.AUROC, 1000, 1)
		fmt.Printf("%s: retraining gains %.4f to %.4f of AUROC (95 %%, paired bootstrap)\n", at, d.Low, d.High)
	}
	return nil
}
