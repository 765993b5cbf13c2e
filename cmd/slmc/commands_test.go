package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// Every command has a help that shows how to call it, and its example is one
// that the command would take.
func TestHelpShowsAnExample(t *testing.T) {
	for _, c := range leaves() {
		t.Run(c.words, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(append(append([]string{"slmc"}, strings.Fields(c.words)...), "--help"), strings.NewReader(""), &stdout, &stderr); code != 0 || stderr.Len() > 0 {
				t.Fatalf("help exits with %d: %s", code, &stderr)
			}
			_, example, ok := strings.Cut(stdout.String(), "Example:\n")
			if !ok {
				t.Fatalf("no example in\n%s", &stdout)
			}
			line, _, _ := strings.Cut(strings.TrimSpace(example), "\n")
			_, call, ok := strings.Cut(line, "slmc "+c.words)
			if !ok {
				t.Fatalf("the example %q does not call %s", line, c.words)
			}
			checkExample(t, c, call)
		})
	}
}

// leaf is a command that does something, with the words that call it.
type leaf struct {
	*cli.Command
	words string
}

// leaves lists the commands, and instead of one that only has others, those.
func leaves() (out []leaf) {
	for _, c := range commands() {
		if len(c.Subcommands) == 0 {
			out = append(out, leaf{c, c.Name})
		}
		for _, sub := range c.Subcommands {
			out = append(out, leaf{sub, c.Name + " " + sub.Name})
		}
	}
	return out
}

// checkExample reports flags and positionals of an example that the command
// does not take.
func checkExample(t *testing.T, c leaf, call string) {
	t.Helper()
	// Quoted arguments hold blanks; what they say does not matter here.
	for i, part := range strings.Split(call, `"`) {
		if i%2 == 1 {
			call = strings.Replace(call, `"`+part+`"`, "quoted", 1)
		}
	}
	args, err := flagsFirst(newApp(nil, io.Discard, io.Discard), append([]string{"slmc"}, strings.Fields(c.words+" "+call)...))
	if err != nil {
		t.Fatal(err)
	}
	args = args[1+len(strings.Fields(c.words)):]
	end := slices.Index(args, "--")
	for _, a := range args[:end] {
		name := strings.TrimLeft(a, "-")
		known := slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
		if strings.HasPrefix(a, "-") && !known {
			t.Errorf("the example uses the unknown flag %s", a)
		}
	}
	usage, _, _ := strings.Cut(c.ArgsUsage, "--")
	wanted := len(slices.DeleteFunc(strings.Fields(usage), func(a string) bool { return strings.HasPrefix(a, "[") }))
	if got := len(args) - end - 1; got < wanted || got > wanted && !strings.Contains(usage, "...]") {
		t.Errorf("the example has %d positionals, the command takes %d (%s)", got, wanted, c.ArgsUsage)
	}
}

// Every command prints JSON on demand, and each flag says what it does.
func TestFlags(t *testing.T) {
	for _, c := range leaves() {
		if !slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return f.Names()[0] == "json" }) {
			t.Errorf("%s has no --json", c.Name)
		}
		if c.Usage == "" || c.Description == "" {
			t.Errorf("%s does not say what it does", c.Name)
		}
		seen := map[string]bool{}
		for _, f := range c.Flags {
			for _, n := range f.Names() {
				if seen[n] {
					t.Errorf("%s has --%s twice", c.Name, n)
				}
				seen[n] = true
			}
			if d, ok := f.(cli.DocGenerationFlag); !ok || d.GetUsage() == "" {
				t.Errorf("%s --%s does not say what it does", c.Name, f.Names()[0])
			}
		}
	}
}

func TestFlagsFirst(t *testing.T) {
	app := newApp(nil, io.Discard, io.Discard)
	for _, c := range []struct{ in, want string }{
		{"run", "run --"},
		{"run a -n 3 --json", "run -n 3 --json -- a"},
		{"run -n=3 a --json=true", "run -n=3 --json=true -- a"},
		{"run a -- -n 3", "run -- a -n 3"},
		{"run -p -- a", "run -p -- -- a"}, // a value is a value
		{"run - a", "run -- - a"},
		{"run a --unknown b", "run --unknown -- a b"},
		{"nope a -n", "nope a -n"},
		{"phone verify a --json", "phone verify --json -- a"},
		{"phone nope a -n", "phone nope a -n"},
		{"phone", "phone"},
	} {
		got, err := flagsFirst(app, append([]string{"slmc"}, strings.Fields(c.in)...))
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
		} else if s := strings.Join(got[1:], " "); s != c.want {
			t.Errorf("%s: %s, wanted %s", c.in, s, c.want)
		}
	}
	if _, err := flagsFirst(app, []string{"slmc", "run", "a", "-n"}); exitCode(err) != exitUsage {
		t.Errorf("a flag without its value: %v", err)
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"": 0, "1": 1, "12B": 12, "1kB": 1000, "1.5KB": 1500, "2MB": 2e6, "3 GB": 3e9, "1KiB": 1024, "0.5MiB": 1 << 19, "2GiB": 2 << 30,
	} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("%q is %d (%v), wanted %d", in, got, err, want)
		}
	}
	for _, in := range []string{"x", "-1", "0", "1TB", "1 2", "MB", "1e40", "NaN", "Inf", "1MBB"} {
		if n, err := parseSize(in); exitCode(err) != exitUsage {
			t.Errorf("%q is %d (%v), wanted a usage error", in, n, err)
		}
	}
}
