// Table measures slmc against llama.cpp, as bench/peer/install.sh fetches it, in
// one run: three shapes with seeded random weights, decode and a prompt of 512,
// 8, 4 and 2 bits, one thread and two. It makes what it needs in a folder (about
// 9 GB), lets the two programs take turns, and writes the medians of the pairs'
// ratios as JSON, with the machine's limits measured in the same minutes:
//
//	bench/peer/install.sh
//	go run ./bench/peer/table -dir FOLDER -o bench/peer.json
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// models are the shapes by the names of the table.
var models = []struct{ name, shape string }{
	{"125m", "mobilellm-125m"}, {"350m", "mobilellm-350m"}, {"1b", "tinyllama-1.1b"},
}

// formats are ours and the peer's types of as many bits; of two, the faster one
// counts.
var formats = []struct {
	weights string
	peers   []string
}{{"w8", []string{"q8_0"}}, {"w4", []string{"q4_0"}}, {"w2", []string{"tq2_0", "q2_k"}}}

// row is a line of the table.
type row struct {
	Model      string  `json:"model"`
	Phase      string  `json:"phase"`
	Weights    string  `json:"weights"`
	Threads    int     `json:"threads"`
	Ours       float64 `json:"ours"` // tokens a second, the median
	Peer       float64 `json:"peer"`
	PeerType   string  `json:"peer_type"`
	Ratio      float64 `json:"ratio"`       // the median of the pairs' ratios
	LimitShare float64 `json:"limit_share"` // of read_gb_s in decode, of int8_gop_s in prefill
	ReadGBs    float64 `json:"read_gb_s"`   // plain loads of the same weights, in the same run
	Int8GOPs   float64 `json:"int8_gop_s"`  // multiplications from registers, in the same run
	OursBytes  int64   `json:"ours_bytes"`  // weights read for a token
	PeerBytes  int64   `json:"peer_bytes"`  // of the file
	Pairs      int     `json:"pairs"`
}

type table struct {
	Machine     string `json:"machine"`
	PeerVersion string `json:"peer_version"`
	Rows        []row  `json:"rows"`
}

// comparison is what slmc bench --against prints.
type comparison struct {
	Ours struct {
		System        string  `json:"system"`
		ReadGBs       float64 `json:"read_gb_s"`
		Int8GOPs      float64 `json:"int8_gop_s"`
		DecodeShare   float64 `json:"decode_share"`
		PrefillShare  float64 `json:"prefill_share"`
		BytesPerToken int64   `json:"bytes_per_token"`
	} `json:"ours"`
	Peer         string  `json:"peer"`
	PeerBytes    int64   `json:"peer_bytes"`
	Prefill      []pair  `json:"prefill"`
	Decode       []pair  `json:"decode"`
	PrefillRatio float64 `json:"prefill_ratio"`
	DecodeRatio  float64 `json:"decode_ratio"`
}

type pair struct {
	Ours  float64 `json:"ours"`
	Peer  float64 `json:"peer"`
	Ratio float64 `json:"ratio"`
}

type config struct {
	dir, out, slmc, under, only, threads string
	prompt, decode, pairs                int
}

func main() {
	var c config
	flag.StringVar(&c.dir, "dir", "", "folder for models and bundles; made and filled as needed")
	flag.StringVar(&c.out, "o", "bench/peer.json", "file to write")
	flag.StringVar(&c.slmc, "slmc", "", "the slmc to measure (default: built here)")
	flag.StringVar(&c.under, "under", "", "command that each measurement runs under, such as \"nice -n -10\"")
	flag.StringVar(&c.only, "only", "", "measure these models only, with the threads wanted, and keep the file's other rows: 125m,350m,1b")
	flag.StringVar(&c.threads, "threads", "1,2", "thread counts")
	flag.IntVar(&c.prompt, "prompt", 512, "prompt tokens")
	flag.IntVar(&c.decode, "decode", 64, "tokens decoded after the prompt")
	flag.IntVar(&c.pairs, "pairs", 5, "pairs of runs")
	flag.Parse()
	if err := c.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func (c *config) run(ctx context.Context) error {
	if c.dir == "" {
		return errors.New("-dir FOLDER is wanted")
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	if c.slmc == "" {
		c.slmc = filepath.Join(c.dir, "slmc")
		if err := command(ctx, "go", "build", "-o", c.slmc, "./cmd/slmc"); err != nil {
			return err
		}
	}
	t, err := c.begin()
	if err != nil {
		return err
	}
	var failed []error // a case that failed does not cost the others
	for _, m := range models {
		if c.only != "" && !slices.Contains(strings.Split(c.only, ","), m.name) {
			continue
		}
		if err := c.prepare(ctx, m.name, m.shape); err != nil {
			return err
		}
		for _, threads := range strings.Split(c.threads, ",") {
			n, err := strconv.Atoi(threads)
			if err != nil {
				return fmt.Errorf("-threads: %w", err)
			}
			t.Rows = slices.DeleteFunc(t.Rows, func(r row) bool { return r.Model == m.name && r.Threads == n })
			for _, f := range formats {
				rows, err := c.measure(ctx, &t, m.name, f.weights, f.peers, n)
				if err != nil {
					fmt.Fprintln(os.Stderr, "table:", err)
					failed = append(failed, err)
					continue
				}
				t.Rows = append(t.Rows, rows...)
				if err := c.write(t); err != nil {
					return err
				}
			}
		}
	}
	return errors.Join(failed...)
}

// begin returns the table to add to: the file's if only some models are
// measured.
func (c *config) begin() (table, error) {
	var t table
	if c.only == "" {
		return t, nil
	}
	b, err := os.ReadFile(c.out)
	if errors.Is(err, os.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, err
	}
	return t, json.Unmarshal(b, &t)
}

// prepare makes the model, its bundles and the peer's files, where they are not
// there yet.
func (c *config) prepare(ctx context.Context, name, shape string) error {
	at := func(suffix string) string { return filepath.Join(c.dir, name+suffix) }
	missing := func(path string) bool { _, err := os.Stat(path); return err != nil }
	source := func() error {
		if !missing(at("")) {
			return nil
		}
		return command(ctx, "go", "run", "./testdata/gen/big", "-shape", shape, "-o", at(""), "-tokenizer", "testdata/assistant-tiny")
	}
	golden := filepath.Join(c.dir, "golden.txt")
	if err := os.WriteFile(golden, []byte("Hello\n"), 0o644); err != nil {
		return err
	}
	oracle := filepath.Join("bench", "peer", ".cache", "oracle")
	for _, f := range formats {
		if bundle := at("-" + f.weights + ".slmb"); missing(bundle) {
			if err := errors.Join(source(), command(ctx, c.slmc, "build", at(""), "-o", bundle, "--weights", f.weights, "--golden", golden, "--context", "2048", "--cache", at("-cache"))); err != nil {
				return err
			}
		}
		for _, p := range f.peers {
			if !missing(at("-" + p + ".gguf")) {
				continue
			}
			if float := at("-f16.gguf"); missing(float) {
				if err := errors.Join(source(), command(ctx, c.slmc, "export", at(""), "-o", float, "--type", "f16")); err != nil {
					return err
				}
			}
			if err := command(ctx, oracle, "-t", strconv.Itoa(runtime.NumCPU()), "quantize", at("-f16.gguf"), at("-"+p+".gguf"), p); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(at("-cache"))
}

// measure returns the rows of decode and prefill, against the peer's faster
// type in each.
func (c *config) measure(ctx context.Context, t *table, model, weights string, peers []string, threads int) ([]row, error) {
	best := map[string]row{}
	for _, p := range peers {
		cmp, err := c.compare(ctx, model, weights, p, threads)
		if err != nil {
			return nil, err
		}
		t.PeerVersion = strings.TrimPrefix(cmp.Peer, "llama.cpp ")
		t.Machine = fmt.Sprintf("%s, %d CPUs", cmp.Ours.System, runtime.NumCPU())
		for _, x := range []struct {
			phase        string
			pairs        []pair
			ratio, share float64
		}{{"decode", cmp.Decode, cmp.DecodeRatio, cmp.Ours.DecodeShare}, {"prefill", cmp.Prefill, cmp.PrefillRatio, cmp.Ours.PrefillShare}} {
			r := row{Model: model, Phase: x.phase, Weights: weights, Threads: threads, PeerType: p, Ratio: x.ratio, LimitShare: x.share,
				ReadGBs: cmp.Ours.ReadGBs, Int8GOPs: cmp.Ours.Int8GOPs, OursBytes: cmp.Ours.BytesPerToken, PeerBytes: cmp.PeerBytes, Pairs: len(x.pairs)}
			r.Ours = median(x.pairs, func(p pair) float64 { return p.Ours })
			r.Peer = median(x.pairs, func(p pair) float64 { return p.Peer })
			if old, ok := best[x.phase]; !ok || r.Ratio < old.Ratio {
				best[x.phase] = r
			}
			fmt.Fprintf(os.Stderr, "%s %s %s %d threads: ours %.1f, %s %.1f, ratio %.2f, %.0f %% of the limit (%.1f GB/s, %.0f GOP/s)\n",
				model, x.phase, weights, threads, r.Ours, p, r.Peer, r.Ratio, 100*r.LimitShare, r.ReadGBs, r.Int8GOPs)
		}
	}
	return []row{best["decode"], best["prefill"]}, nil
}

func (c *config) compare(ctx context.Context, model, weights, peer string, threads int) (comparison, error) {
	var cmp comparison
	args := append(strings.Fields(c.under), c.slmc, "bench", filepath.Join(c.dir, model+"-"+weights+".slmb"),
		"--against", filepath.Join(c.dir, model+"-"+peer+".gguf"), "--json", "--threads", strconv.Itoa(threads),
		"--prompt-tokens", strconv.Itoa(c.prompt), "--decode-tokens", strconv.Itoa(c.decode), "--repetitions", strconv.Itoa(c.pairs))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return cmp, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return cmp, json.Unmarshal(out, &cmp)
}

func median(pairs []pair, of func(pair) float64) float64 {
	x := make([]float64, len(pairs))
	for i, p := range pairs {
		x[i] = of(p)
	}
	slices.Sort(x)
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// write replaces the file, a row a line.
func (c *config) write(t table) error {
	slices.SortStableFunc(t.Rows, func(a, b row) int {
		return cmp.Or(modelIndex(a.Model)-modelIndex(b.Model), a.Threads-b.Threads)
	})
	var b strings.Builder
	fmt.Fprintf(&b, "{\"machine\": %s, \"peer_version\": %s, \"rows\": [\n", quote(t.Machine), quote(t.PeerVersion))
	for i, r := range t.Rows {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		b.Write(line)
		if i < len(t.Rows)-1 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
	}
	b.WriteString("]}\n")
	tmp := c.out + ".new"
	return errors.Join(os.WriteFile(tmp, []byte(b.String()), 0o644), os.Rename(tmp, c.out))
}

func modelIndex(name string) int {
	for i, m := range models {
		if m.name == name {
			return i
		}
	}
	return len(models)
}

func quote(s string) string {
	b, _ := json.Marshal(s) // a string always has a form
	return string(b)
}

func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}
