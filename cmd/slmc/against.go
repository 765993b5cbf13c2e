package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"slmc/internal/pipeline"
	slmrt "slmc/runtime"
)

// pair is one repetition of ours and the peer's, one after the other.
type pair struct {
	Ours  float64 `json:"ours"` // tokens a second
	Peer  float64 `json:"peer"`
	Ratio float64 `json:"ratio"`
}

// comparison is what bench --against prints.
type comparison struct {
	Ours         slmrt.BenchResult `json:"ours"`
	Peer         string            `json:"peer"` // name and version
	PeerFile     string            `json:"peer_file"`
	PeerBytes    int64             `json:"peer_bytes"`
	PeerLoadMs   float64           `json:"peer_load_ms"`
	PeerCache    string            `json:"peer_cache"`
	Prefill      []pair            `json:"prefill"`
	Decode       []pair            `json:"decode"`
	PrefillRatio float64           `json:"prefill_ratio"` // medians
	DecodeRatio  float64           `json:"decode_ratio"`
}

// benchAgainst runs the bundle at path and the peer on a GGUF file in turns.
func benchAgainst(c *cli.Context, path, file string, o slmrt.Options, b slmrt.BenchOptions, format string) error {
	if file == "gguf" {
		dir, err := os.MkdirTemp("", "slmc-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		file = filepath.Join(dir, "peer.gguf")
		if err := exportForPeer(c, path, file); err != nil {
			return err
		}
	}
	if o.Threads == 0 {
		o.Threads = slmrt.DefaultThreads()
	}
	p, err := startPeer(c.Context, c.String("peer"), file, o.Threads, b)
	if err != nil {
		return err
	}
	defer p.stop()
	b.Between = p.round
	var cmp comparison
	err = withModel(c, path, o.Context, func(m *slmrt.Model) error {
		cmp.Ours, err = m.Bench(c.Context, o, b, 0)
		return err
	})
	if err != nil {
		return err
	}
	cmp.Peer, cmp.PeerFile, cmp.PeerLoadMs, cmp.PeerCache = "llama.cpp "+p.version, filepath.Base(file), p.loadMs, "f16"
	if info, err := os.Stat(file); err == nil {
		cmp.PeerBytes = info.Size()
	}
	var prefill, decode []float64
	for i, r := range cmp.Ours.Rounds {
		peer := p.rounds[i+1] // after the round that warmed up
		n, g := float64(b.Prompt), float64(b.Generate)
		cmp.Prefill = append(cmp.Prefill, pair{n / r.Prefill, n / peer.Prefill, peer.Prefill / r.Prefill})
		cmp.Decode = append(cmp.Decode, pair{g / r.Decode, g / peer.Decode, peer.Decode / r.Decode})
		prefill, decode = append(prefill, peer.Prefill/r.Prefill), append(decode, peer.Decode/r.Decode)
	}
	cmp.PrefillRatio, cmp.DecodeRatio = medianOf(prefill), medianOf(decode)
	return printComparison(c, cmp, format)
}

func medianOf(x []float64) float64 {
	slices.Sort(x)
	n := len(x)
	return (x[(n-1)/2] + x[n/2]) / 2
}

// exportForPeer writes the bundle as the peer reads it: exactly if a type holds
// its codes, else rounded again, which changes its answers but not its speed.
func exportForPeer(c *cli.Context, path, file string) error {
	opened, err := pipeline.Open(c.Context, path, env(c))
	if err != nil {
		return err
	}
	defer opened.Close()
	log := slog.New(slog.DiscardHandler)
	quiet := func(int64, int64) {}
	_, err = pipeline.Export(c.Context, opened, file, pipeline.ExportOptions{Type: "auto"}, log, quiet)
	for _, typ := range []string{"q2_k", "tq2_0"} {
		if err != nil {
			_, err = pipeline.Export(c.Context, opened, file, pipeline.ExportOptions{Type: typ, Requantize: true, Fallback: "f16"}, log, quiet)
		}
	}
	if err != nil {
		return fmt.Errorf("no GGUF file for the peer: %w", err)
	}
	return nil
}

// peerProcess is llama.cpp's bench, waiting for its turn.
type peerProcess struct {
	cmd     *exec.Cmd
	in      *os.File
	out     *bufio.Scanner
	errs    strings.Builder
	version string
	loadMs  float64
	rounds  []slmrt.Round
}

// startPeer starts llama.cpp as it runs best here: weights repacked, flash
// attention, an F16 cache.
func startPeer(ctx context.Context, folder, file string, threads int, b slmrt.BenchOptions) (*peerProcess, error) {
	if folder == "" {
		folder = filepath.Join("bench", "peer", ".cache")
	}
	oracle := filepath.Join(folder, "oracle")
	if _, err := os.Stat(oracle); err != nil {
		return nil, fmt.Errorf("no %s: bench/peer/install.sh fetches llama.cpp and builds it; --peer names its folder: %w", oracle, err)
	}
	oracle, err := filepath.Abs(oracle)
	if err != nil {
		return nil, err
	}
	p := &peerProcess{}
	info, err := exec.CommandContext(ctx, oracle, "info", file).Output()
	if err != nil {
		return nil, fmt.Errorf("%s info %s: %w", oracle, file, err)
	}
	for word := range strings.FieldsSeq(string(info)) {
		if v, ok := strings.CutPrefix(word, "version="); ok {
			p.version = v
		}
	}
	p.cmd = exec.CommandContext(ctx, oracle, "-w", "-F", "-k", "f16", "-t", strconv.Itoa(threads), "-n", strconv.Itoa(b.Prompt),
		"-g", strconv.Itoa(b.Generate), "-r", strconv.Itoa(b.Repetitions), "bench", file)
	p.cmd.Stderr = &p.errs
	p.cmd.WaitDelay = time.Second
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdin, p.in = stdin, in
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close(), in.Close())
	}
	p.out = bufio.NewScanner(out)
	if err := errors.Join(p.cmd.Start(), stdin.Close()); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	load, err := p.fields()
	p.loadMs = load["load_ms"]
	return p, err
}

// fields reads a line of name=number.
func (p *peerProcess) fields() (map[string]float64, error) {
	if !p.out.Scan() {
		return nil, fmt.Errorf("the peer ended: %s", strings.TrimSpace(p.errs.String()))
	}
	out := map[string]float64{}
	for word := range strings.FieldsSeq(p.out.Text()) {
		name, value, _ := strings.Cut(word, "=")
		x, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("the peer printed %q: %w", p.out.Text(), err)
		}
		out[name] = x
	}
	return out, nil
}

// round lets the peer run one repetition.
func (p *peerProcess) round() error {
	if _, err := p.in.WriteString("\n"); err != nil {
		return fmt.Errorf("the peer: %w", err)
	}
	f, err := p.fields()
	p.rounds = append(p.rounds, slmrt.Round{Prefill: f["prefill_s"], Decode: f["decode_s"]})
	return err
}

func (p *peerProcess) stop() {
	p.in.Close()
	p.cmd.Process.Kill()
	_ = p.cmd.Wait() // killed
}

func printComparison(c *cli.Context, cmp comparison, format string) error {
	switch format {
	case "json":
		b, err := json.Marshal(cmp)
		if err != nil {
			return err
		}
		return printf(c, "%s\n", b)
	case "csv":
		var b strings.Builder
		b.WriteString("phase,pair,ours tok/s,peer tok/s,ratio\n")
		each(cmp, func(phase string, i int, x pair) {
			fmt.Fprintf(&b, "%s,%d,%.2f,%.2f,%.3f\n", phase, i+1, x.Ours, x.Peer, x.Ratio)
		})
		return printf(c, "%s", b.String())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %s, %d threads, %s | ours tok/s | peer tok/s | ratio |\n|---|---|---|---|\n", cmp.Peer, cmp.Ours.Threads, cmp.PeerFile)
	each(cmp, func(phase string, i int, x pair) {
		fmt.Fprintf(&b, "| %s, pair %d | %.1f | %.1f | %.2f |\n", phase, i+1, x.Ours, x.Peer, x.Ratio)
	})
	fmt.Fprintf(&b, "| prefill, median | %.1f | | %.2f |\n| decode, median | %.1f | | %.2f |\n", cmp.Ours.PrefillTokS, cmp.PrefillRatio, cmp.Ours.DecodeTokS, cmp.DecodeRatio)
	fmt.Fprintf(&b, "\n%.1f MB of weights a token of ours, %.1f MB in the peer's file; reads %.1f GB/s (decode reaches %.0f %%), int8 %.0f GOP/s (prefill %.0f %%)\n",
		float64(cmp.Ours.BytesPerToken)/1e6, float64(cmp.PeerBytes)/1e6, cmp.Ours.ReadGBs, 100*cmp.Ours.DecodeShare, cmp.Ours.Int8GOPs, 100*cmp.Ours.PrefillShare)
	return printf(c, "%s", b.String())
}

func each(cmp comparison, f func(phase string, i int, x pair)) {
	for i, x := range cmp.Prefill {
		f("prefill", i, x)
	}
	for i, x := range cmp.Decode {
		f("decode", i, x)
	}
}
