package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"slmc/internal/eval"
	"slmc/internal/kernel"
	"slmc/internal/pipeline"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
)

func evalCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "eval",
		Usage: "measure perplexity on a text, and the distance from a teacher",
		Description: "The text is tokenized whole and cut into windows of the context length, each starting\n" +
			"with BOS where the model has one. nll is nats per predicted token. --teacher adds the\n" +
			"mean and the 99th percentile of KL(teacher || model) and how often both agree on the\n" +
			"likeliest token. --gate exits with code 5 when a bound is not kept. --task with --large also\n" +
			"measures the bundle's deferral router at its default row: auroc_pre, auroc_mid and auroc_post say how\n" +
			"well it tells wrong answers from right ones before, during and after them. auroc_mid takes the first\n" +
			"reading of each answer, after 16 tokens, and of a shorter one that before it: where none is as long,\n" +
			"it equals auroc_pre. Figures that the rows leave undefined (no answer is wrong, say) are null.",
		Flags: join([]cli.Flag{
			&cli.StringFlag{Name: "text", Usage: "score the perplexity of this `FILE`"},
			&cli.StringFlag{Name: "task", Usage: "score greedy answers to the JSONL rows of `FILE` by exact match"},
			&cli.StringFlag{Name: "prompt-field", Usage: "rows hold the prompt in `NAME` (default: query, else prompt)"},
			&cli.StringFlag{Name: "answer-field", Usage: "rows hold the answer in `NAME` (default: call, else answer)"},
			&cli.StringFlag{Name: "teacher", Usage: "compare with this `SOURCE` or bundle"},
			&cli.StringSliceFlag{Name: "gate", Usage: "demand `EXPR`, such as kl<0.01 or ppl<=12.5; of nll, ppl, kl, kl_p99, same_top1, exact_match"},
			&cli.IntFlag{Name: "max-tokens", Usage: "score only the first `N` tokens of the text"},
			jsonFlag(),
		}, largeFlags(), sessionFlags(), sourceFlags()),
		Action: runEval,
	}, `slmc eval assistant.slmb --text notes.txt --teacher testdata/assistant-tiny --gate "kl<0.01"`, "SOURCE_OR_BUNDLE")
}

func runEval(c *cli.Context) error {
	o, err := sessionOptions(c)
	if err != nil {
		return err
	}
	gates, err := parseGates(c.StringSlice("gate"))
	if err != nil {
		return err
	}
	if err := checkMeasured(gates, c.String("teacher"), c.IsSet("task")); err != nil {
		return err
	}
	if o.Context == 1 {
		return usageError("--context 1 leaves no token to predict; give 2 or more")
	}
	if c.IsSet("large") && !c.IsSet("task") {
		return usageError("--large measures a router on the rows of --task")
	}
	if c.IsSet("text") == c.IsSet("task") {
		return usageError("eval wants either --text or --task")
	}
	if c.IsSet("task") {
		return evalTask(c, o, gates)
	}
	text, err := os.ReadFile(c.String("text"))
	if err != nil {
		return err
	}
	return withModel(c, c.Args().First(), o.Context, func(m *slmrt.Model) error {
		size := o.Context
		if size == 0 {
			size = m.Context
		}
		ids, err := plainTokens(m, string(text))
		if err != nil {
			return err
		}
		if n := c.Int("max-tokens"); n > 0 && n < len(ids) {
			ids = ids[:n]
		}
		windows := eval.Windows(ids, size, m.BOS)
		score := func(teacher *slmrt.Session) error {
			s, err := m.NewSession(o)
			if err != nil {
				return err
			}
			defer s.Close()
			return scoreText(c, s, teacher, m.Graph.Vocab, windows, len(ids), gates)
		}
		path := c.String("teacher")
		if path == "" {
			return score(nil)
		}
		return withTeacher(c, path, size, m, score)
	})
}

// plainTokens are the ids of a text without BOS and EOS: the windows bring
// their own.
func plainTokens(m *slmrt.Model, text string) ([]int32, error) {
	if m.Tokenizer == nil {
		return nil, usageError("the model has no tokenizer, so no text can be scored")
	}
	return m.Tokenizer.Encode(text, false)
}

// withTeacher opens the model to compare with and checks that it has the same
// vocabulary.
func withTeacher(c *cli.Context, path string, size int, student *slmrt.Model, f func(*slmrt.Session) error) error {
	t, err := pipeline.Open(c.Context, path, env(c))
	if err != nil {
		return fmt.Errorf("teacher: %w", err)
	}
	err = func() error {
		m, err := t.Runtime(size)
		if err != nil {
			return fmt.Errorf("teacher: %w", err)
		}
		if m.Graph.Vocab != student.Graph.Vocab {
			return usageError(fmt.Sprintf("teacher %s has %d tokens, the model %d", path, m.Graph.Vocab, student.Graph.Vocab))
		}
		s, err := m.NewSession(slmrt.Options{Context: size, Threads: c.Int("threads"), Kernel: c.String("kernel")})
		if err != nil {
			return fmt.Errorf("teacher: %w", err)
		}
		defer s.Close()
		return f(s)
	}()
	return errors.Join(err, t.Close())
}

func scoreText(c *cli.Context, s, teacher *slmrt.Session, vocab int, windows [][]int32, total int, gates []gate) error {
	f, err := kernel.Select(c.String("kernel"))
	if err != nil {
		return err
	}
	var t eval.Scorer
	if teacher != nil {
		t = teacher
	}
	set, finish := progress(c, "eval", int64(total), "tok")
	res, err := eval.Score(c.Context, f, s, t, vocab, windows, func(done int) { set(int64(done)) })
	finish()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = printJSON(c, res)
	} else {
		err = printf(c, "%d tokens  nll %.6f  ppl %.4f\n", res.Tokens, res.NLL, res.PPL)
		if err == nil && res.KLMean != nil {
			err = printf(c, "against teacher: kl mean %.6f  p99 %.6f  same top-1 %.2f %%\n", *res.KLMean, *res.KLP99, 100**res.SameTop1)
		}
	}
	if err != nil {
		return err
	}
	return checkGates(gates, pipeline.Figures{Text: res})
}

func evalTask(c *cli.Context, o slmrt.Options, gates []gate) error {
	rows, err := pipeline.ReadRows(c.String("task"), pipeline.Fields{Prompt: c.String("prompt-field"), Answer: c.String("answer-field")})
	if err != nil {
		return err
	}
	return withModel(c, c.Args().First(), o.Context, func(m *slmrt.Model) error {
		if c.IsSet("large") {
			return evalDeferral(c, m, rows, o, gates)
		}
		set, finish := progress(c, "eval", int64(len(rows)), "rows")
		t, err := pipeline.EvalTask(c.Context, m, rows, o, threadsOf(c), func(done int) { set(int64(done)) })
		finish()
		if err != nil {
			return err
		}
		if err := printTask(c, t); err != nil {
			return err
		}
		return checkGates(gates, pipeline.Figures{ExactMatch: &t.ExactMatch})
	})
}

// evalDeferral is evalTask for a bundle with a router.
func evalDeferral(c *cli.Context, m *slmrt.Model, rows []pipeline.Row, o slmrt.Options, gates []gate) (err error) {
	maxTokens := routertrain.DefaultConfig().MaxTokens
	large, err := openLarge(c, maxTokens, 1, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, large.Close()) }()
	set, finish := progress(c, "eval", int64(len(rows)), "rows")
	t, d, err := pipeline.EvalDeferral(c.Context, m, rows, large, maxTokens, threadsOf(c), o, func(done int) { set(int64(done)) })
	finish()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = printJSON(c, struct {
			pipeline.Task
			Deferral routertrain.Figures `json:"deferral"`
			Details  routertrain.Details `json:"deferral_details"`
		}{t, d.Figures, d.More})
	} else if err = printTask(c, t); err == nil {
		err = printf(c, "router: AUROC of a wrong answer %s before, %s during, %s after it, token entropy %s; calibration error %.4f\n"+
			"at the default row (bound %g, delta %g): %.1f %% deferred, quality %.2f %%, large alone %.2f %%, loss %.4f, violated %v; gap closed %s\n",
			d.AUROCPre, d.AUROCMid, d.AUROCPost, d.AUROCEntropy, d.ECE,
			d.Bound, d.Delta, 100*d.DeferralRate, 100*d.Quality, 100*d.More.LargeQuality, d.More.Loss, d.BoundViolated, d.GapClosed)
		if why := d.Undefined(); err == nil && why != "" {
			err = printf(c, "undefined: %s\n", why)
		}
	}
	if err != nil {
		return err
	}
	return checkGates(gates, pipeline.Figures{ExactMatch: &t.ExactMatch})
}

func printTask(c *cli.Context, t pipeline.Task) error {
	if c.Bool("json") {
		return printJSON(c, t)
	}
	if err := printf(c, "%d rows  exact match %.2f %%\n", t.N, 100*t.ExactMatch); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(t.BySource)) {
		if err := printf(c, "  %-16s %d rows  %.2f %%\n", name, t.BySource[name].N, 100*t.BySource[name].ExactMatch); err != nil {
			return err
		}
	}
	return nil
}
