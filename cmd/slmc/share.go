package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"slmc/internal/pipeline"
	"slmc/kvshare"
)

func shareFlag() cli.Flag {
	return &cli.StringFlag{Name: "share-kv", Usage: "let blocks read the keys and values of others by `PLAN`: " + kvshare.Forms +
		"; a search takes the map that is best after short heals, or, where nothing heals it, as it is"}
}

func healFlag() cli.Flag {
	return &cli.Float64Flag{Name: "heal-epochs", DefaultText: "2 with --calibrate and without --qat, else 0", Usage: "pass over the examples `N` times to heal a shared model in float, before anything is rounded"}
}

// withSharing adds what the flags say of sharing. A shared model is healed in
// float where there are examples and no other training heals it.
func withSharing(c *cli.Context, r pipeline.Recipe) pipeline.Recipe {
	if c.IsSet("share-kv") {
		r.Share = &pipeline.Sharing{Plan: c.String("share-kv")}
	}
	if r.Share == nil {
		return r
	}
	s := *r.Share
	s.Fields = fieldsOf(c, s.Fields)
	heal := c.Float64("heal-epochs") > 0
	if !c.IsSet("heal-epochs") && c.IsSet("share-kv") {
		heal = c.String("calibrate") != "" && r.QAT == nil
	}
	switch {
	case heal && s.Heal == nil:
		d := pipeline.DefaultHeal()
		d.Seed, s.Heal = r.Seed, &d
	case c.IsSet("heal-epochs") && !heal:
		s.Heal = nil
	}
	if s.Heal != nil {
		d := *s.Heal
		if c.IsSet("heal-epochs") {
			d.Epochs = c.Float64("heal-epochs")
		}
		if c.IsSet("lr") && r.QAT == nil {
			d.LR = c.Float64("lr")
		}
		s.Heal = &d
	}
	r.Share = &s
	return r
}

// printShared is the table of maps in a dry run.
func printShared(w io.Writer, all []pipeline.SharedPreview) {
	fmt.Fprint(w, "keys and values\tblocks that take\tcache f16, kv8\tprefill\tparameters\tKL\n")
	for _, p := range all {
		kl := "not measured"
		if p.KL != nil {
			kl = fmt.Sprintf("%.4f", *p.KL)
		}
		c := p.Cost
		fmt.Fprintf(w, "  %s\t%s\t%d, %d bytes a token (-%.1f%%)\t%d multiply-adds a token (-%.1f%%)\t-%d\t%s\n", p.Name, p.Plan,
			c.CacheF16.After, c.CacheKV8.After, 100*c.CacheF16.Saved(), c.Prefill.After, 100*c.Prefill.Saved(), c.Parameters.Before-c.Parameters.After, kl)
	}
}

// printTrials tells what a build does yet to choose a map.
func printTrials(w io.Writer, t *pipeline.TrialPreview) {
	if t == nil {
		return
	}
	var rounds []string
	for _, r := range t.Rounds {
		rounds = append(rounds, fmt.Sprintf("%d of them on %d tokens", r.Maps, r.Tokens))
	}
	fmt.Fprintf(w, "map to be chosen\tby short heals of %s each: about %d tokens in all, %.0f s; measured on %d others\n",
		strings.Join(rounds, ", then "), t.Tokens, max(1, t.Seconds), t.Held)
}
