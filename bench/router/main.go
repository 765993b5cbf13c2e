// Command router makes the figures of bench/router.md that no command of slmc
// gives: the bits of every reading, Hybrid LLM's table, a router that was
// trained on other weights, and published label sets.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
)

// commands is the table of what it does.
var commands = []struct {
	name, usage string
	run         func(ctx context.Context, args []string) error
}{
	{"replay", "BUNDLE QUERIES.jsonl [N]: a digest of the bits of every reading, and the decisions at the default row", replay},
	{"hybrid", "BUNDLE LABELS.jsonl EXAMPLES.jsonl TEST_LABELS.jsonl: the drop at 10, 20 and 40 % sent to the small model, by targets", hybrid},
	{"reuse", "BUNDLE LABELS.jsonl EXAMPLES.jsonl TEST_LABELS.jsonl FLOAT_SOURCE FLOAT_LABELS.jsonl: a router trained on float weights, read on the bundle", reuse},
	{"published", "GSM8K_DIR ROUTELLM_DIR: published accuracies, the oracle's deferral, and certificates", published},
	{"strange", "BUNDLE KNOWN.jsonl UNKNOWN.jsonl: the out-of-distribution score", strange},
	{"cost", "BUNDLE QUERIES.jsonl: the time of a reading, and its operations beside the prefill's", cost},
}

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: router COMMAND ARGUMENTS")
		for _, c := range commands {
			fmt.Fprintf(os.Stderr, "  %s %s\n", c.name, c.usage)
		}
	}
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	for _, c := range commands {
		if flag.Arg(0) != c.name {
			continue
		}
		if err := c.run(context.Background(), flag.Args()[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "router %s: %v\n", c.name, err)
			os.Exit(1)
		}
		return
	}
	flag.Usage()
	os.Exit(2)
}

// want reports arguments that are missing.
func want(args []string, n int) error {
	if len(args) < n {
		return fmt.Errorf("wants %d arguments, found %d", n, len(args))
	}
	return nil
}
