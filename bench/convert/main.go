//go:build unix

// Convert measures the conversion of a checkpoint: seconds, weights a second,
// peak memory and the digest of the bytes. README.md has the commands.
//
//	go run ./bench/convert [-weights w8] [-threads 1] [-o FILE] SOURCE
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"slmc/calibrate"
	"slmc/convert"
	"slmc/formats/gguf"
	"slmc/internal/kernel"
	"slmc/model"
)

func main() {
	weights := flag.String("weights", "w8", "format of the weights")
	threads := flag.Int("threads", runtime.NumCPU(), "threads")
	name := flag.String("kernel", "", "kernel implementation")
	out := flag.String("o", os.DevNull, "file to write")
	sum := flag.Bool("sum", false, "print the SHA-256 of the bytes too, which takes time")
	ggufOut := flag.String("gguf", "", "write the checkpoint as a BF16 GGUF file instead, the peer's input")
	profile := flag.String("cpuprofile", "", "write a CPU profile")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if *ggufOut != "" {
		if err := writeGGUF(flag.Arg(0), *ggufOut); err != nil {
			fmt.Fprintln(os.Stderr, "convert:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(flag.Arg(0), *weights, *name, *out, *profile, *threads, *sum); err != nil {
		fmt.Fprintln(os.Stderr, "convert:", err)
		os.Exit(1)
	}
}

func run(source, weights, name, out, profile string, threads int, sum bool) (err error) {
	ctx := context.Background()
	runtime.GOMAXPROCS(threads)
	k, err := kernel.Select(name)
	if err != nil {
		return err
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	start := time.Now()
	c, err := convert.Open(ctx, source, convert.Options{})
	if err != nil {
		return err
	}
	recipe, err := model.Preset(weights, "")
	if err != nil {
		return err
	}
	p, err := convert.NewPlan(c.Model.Graph, recipe)
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	var w io.Writer = f
	var h hash.Hash
	if sum {
		h = sha256.New()
		w = io.MultiWriter(f, h)
	}
	err = convert.Write(ctx, w, c.Model, p, convert.WriteOptions{Threads: threads, Kernel: k, Scales: calibrate.RTN{Kernel: k}.Scales})
	if err := errors.Join(err, f.Close(), c.Close()); err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	r := map[string]any{
		"source": source, "kernel": k.Name, "threads": threads, "plan": p.String(), "work_bytes": p.WorkBytes(threads),
		"seconds": seconds, "cpu_seconds": cpuSeconds(), "mweights_s_thread": float64(p.Params) / seconds / 1e6 / float64(threads), "peak_rss_bytes": peakRSS(),
	}
	if h != nil {
		r["sha256"] = hex.EncodeToString(h.Sum(nil))
	}
	b, err := json.MarshalIndent(r, "", "  ")
	fmt.Println(string(b))
	return err
}

// writeGGUF exports a checkpoint without a vocabulary.
func writeGGUF(source, out string) (err error) {
	ctx := context.Background()
	c, err := convert.Open(ctx, source, convert.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	g, err := convert.GGUF(c.Model, "big", gguf.BF16, nil)
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	return errors.Join(gguf.Write(ctx, f, g.KVs, g.Tensors), f.Close())
}

// cpuSeconds is user and system time so far, which a busy machine does not
// stretch as it does the wall clock.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// peakRSS reads VmHWM, which Linux keeps; 0 elsewhere.
func peakRSS() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			n, _ := strconv.Atoi(f[1])
			return n << 10
		}
	}
	return 0
}
