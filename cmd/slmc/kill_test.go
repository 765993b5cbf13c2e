package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"slmc/formats/safetensors"
	"slmc/model"
	"slmc/tensor"
)

// checkpoint writes a folder of seeded weights with the assistant's tokenizer,
// 1.6 million parameters: enough that its build can be caught at work. edit
// may change what is written.
func checkpoint(t testing.TB, edit ...func([]safetensors.Tensor) []safetensors.Tensor) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), read(t, filepath.Join(repo, "testdata/assistant-tiny", name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4,
	"num_key_value_heads": 2, "intermediate_size": 352, "vocab_size": 2048, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
	"hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 5}`
	c, err := model.ParseConfig("config.json", strings.NewReader(config), int64(len(config)))
	if err != nil {
		t.Fatal(err)
	}
	g, err := model.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(4, 4))
	var tensors []safetensors.Tensor
	for _, w := range g.Weights {
		tensors = append(tensors, safetensors.Tensor{Name: w.Source, Type: tensor.F32, Shape: w.Shape, Data: func(out io.Writer) error {
			buf := make([]byte, 0, 4*w.Elems())
			for range w.Elems() {
				x := float32(r.NormFloat64() / math.Sqrt(float64(w.Shape[len(w.Shape)-1])))
				if !w.Role.Matrix() {
					x = 1
				}
				buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(x))
			}
			_, err := out.Write(buf)
			return err
		}})
	}
	for _, e := range edit {
		tensors = e(tensors)
	}
	var weights bytes.Buffer
	err = errors.Join(
		safetensors.Write(&weights, nil, tensors...),
		os.WriteFile(filepath.Join(dir, "model.safetensors"), weights.Bytes(), 0o600),
		os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// work is one build in folders of its own.
type work struct {
	t           testing.TB
	source, dir string
	args        []string // beside source, output and cache
	stages      []string // in the cache when all is done, sorted; nil: those of a build without examples
	cmd         *exec.Cmd
	stderr      bytes.Buffer
	ended       chan error
}

func (w *work) out() string   { return filepath.Join(w.dir, "out", "made.slmb") }
func (w *work) cache() string { return filepath.Join(w.dir, "cache") }

func (w *work) command() []string {
	return append([]string{"build", w.source, "-o", w.out(), "--cache", w.cache()}, w.args...)
}

func newWork(t testing.TB, source string) *work {
	t.Helper()
	w := &work{t: t, source: source, dir: t.TempDir()}
	if err := os.Mkdir(filepath.Dir(w.out()), 0o700); err != nil {
		t.Fatal(err)
	}
	return w
}

// start runs the build in a process of its own.
func (w *work) start(more ...string) {
	w.t.Helper()
	w.cmd = exec.Command(program(w.t, "slmc"), slices.Concat(w.command(), more)...)
	w.cmd.Stderr = &w.stderr
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.ended = make(chan error, 1)
	go func() { w.ended <- w.cmd.Wait() }()
}

// kill ends the process the hard way and reports whether it was still at work.
func (w *work) kill() bool {
	w.t.Helper()
	err := w.cmd.Process.Kill()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		w.t.Fatal(err)
	}
	return <-w.ended != nil
}

func (w *work) names(dir string) []string {
	w.t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// check looks at what a killed build left: under the final name there is
// nothing, or the whole bundle.
func (w *work) check(want []byte) (state string) {
	w.t.Helper()
	for _, n := range w.names(w.cache()) {
		if kind, _, ok := strings.Cut(n, "-"); ok && !strings.HasPrefix(n, ".") {
			state += " " + kind + filepath.Ext(n)
		}
	}
	for _, n := range w.names(filepath.Dir(w.out())) {
		switch {
		case n == "made.slmb":
			if !bytes.Equal(read(w.t, w.out()), want) {
				w.t.Errorf("after a kill there is something else than the bundle under its name")
			}
			state += " bundle"
		case n == "made.slmb.recipe.yaml" || n == "made.slmb.report.json":
			if text := read(w.t, filepath.Join(filepath.Dir(w.out()), n)); len(text) == 0 || text[len(text)-1] != '\n' {
				w.t.Errorf("after a kill %s is no whole file", n)
			}
		case strings.HasPrefix(n, ".made.slmb.") && strings.HasSuffix(n, ".partial"):
			state += " partial"
		default:
			w.t.Errorf("after a kill there is a file %q", n)
		}
	}
	if state == "" {
		return "nothing"
	}
	return state[1:]
}

// finish runs the build to its end and looks for what should not be there.
func (w *work) finish(bytesWanted []byte) {
	w.t.Helper()
	ok(w.t, w.command()...)
	if !bytes.Equal(read(w.t, w.out()), bytesWanted) {
		w.t.Errorf("the resumed build has other bytes")
	}
	if got, want := w.names(filepath.Dir(w.out())), []string{"made.slmb", "made.slmb.recipe.yaml", "made.slmb.report.json"}; !slices.Equal(got, want) {
		w.t.Errorf("beside the bundle there is %v, wanted %v", got, want)
	}
	cache := w.names(w.cache())
	kinds := make([]string, len(cache))
	for i, n := range cache {
		kind, _, _ := strings.Cut(n, "-")
		kinds[i] = kind + filepath.Ext(n)
	}
	want := w.stages
	if want == nil {
		want = []string{"golden", "golden.json", "lock", "pack", "pack.json"}
	}
	if !slices.Equal(kinds, want) {
		w.t.Errorf("the cache holds %v, wanted one file each of %v", cache, want)
	}
}

// A build that is killed at any moment leaves nothing wrong, and the next one
// ends with the bytes of a build that nobody disturbed, leaving nothing behind.
func TestKilledBuildResumes(t *testing.T) {
	source := checkpoint(t)
	program(t, "slmc")
	var want []byte
	whole := time.Hour // of an undisturbed build, the faster of two
	for range 2 {
		undisturbed := newWork(t, source)
		begin := time.Now()
		undisturbed.start()
		if err := <-undisturbed.ended; err != nil {
			t.Fatalf("%v\n%s", err, &undisturbed.stderr)
		}
		whole = min(whole, time.Since(begin))
		want = read(t, undisturbed.out())
		undisturbed.finish(want)
	}

	const kills = 20
	r := rand.New(rand.NewPCG(20, 9))
	states := map[string]int{}
	tooLate := 0
	for n := 0; n < kills; {
		// One moment in each twentieth of the time; where the machine is
		// faster now than in the measured run, nearer to the start.
		delay := time.Duration((float64(n) + r.Float64()) / kills * float64(whole))
		delay = time.Duration(float64(delay) * math.Pow(0.9, float64(tooLate)))
		w := newWork(t, source)
		w.start()
		select {
		case err := <-w.ended:
			if err != nil {
				t.Fatalf("%v\n%s", err, &w.stderr)
			}
			if tooLate++; tooLate > 3*kills {
				t.Fatalf("only %d of %d builds were at work when the kill came", n, n+tooLate)
			}
			continue
		case <-time.After(delay):
		}
		if !w.kill() {
			tooLate++
			continue
		}
		n++
		states[w.check(want)]++
		w.finish(want)
	}
	// Three more, aimed at the shortest step: the bundle is being written.
	for range 3 {
		w := newWork(t, source)
		w.start()
		for len(w.names(filepath.Dir(w.out()))) == 0 && len(w.ended) == 0 {
			time.Sleep(50 * time.Microsecond)
		}
		if w.kill() {
			states["aimed: "+w.check(want)]++
		}
		w.finish(want)
	}
	t.Logf("%d kills in builds of %v, %d came too late; left: %v", kills, whole, tooLate, states)
}

// Training that is killed ten times, each time going on from where it was, with
// one thread or two, ends with the bytes of a run that nobody disturbed.
func TestKilledTrainingResumes(t *testing.T) {
	program(t, "slmc")
	recipe := filepath.Join(t.TempDir(), "recipe.yaml")
	if err := os.WriteFile(recipe, []byte("qat: {epochs: 4, batch_tokens: 64, warmup: 10}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	begin := func() *work {
		w := newWork(t, filepath.Join(repo, "testdata/assistant-tiny"))
		w.args = []string{"--weights", "w2", "--recipe", recipe, "--calibrate", filepath.Join(repo, "testdata/requests.jsonl")}
		w.stages = []string{"golden", "golden.json", "lock", "qat", "qat.json"}
		return w
	}
	undisturbed, started := begin(), time.Now()
	undisturbed.start()
	if err := <-undisturbed.ended; err != nil {
		t.Fatalf("%v\n%s", err, &undisturbed.stderr)
	}
	whole := time.Since(started)
	want := read(t, undisturbed.out())
	undisturbed.finish(want)

	r := rand.New(rand.NewPCG(10, 9))
	w, resumed := begin(), 0
	for kills, runs := 0, 0; kills < 10; runs++ {
		if runs > 60 {
			t.Fatalf("only %d of %d builds were at work when the kill came", kills, runs)
		}
		w.stderr.Reset()
		w.start("--threads", []string{"1", "2"}[runs%2])
		select {
		case err := <-w.ended:
			if err != nil {
				t.Fatalf("%v\n%s", err, &w.stderr)
			}
			w.finish(want)
			w = begin()
			continue
		case <-time.After(time.Duration((0.1 + 0.4*r.Float64()) * float64(whole))):
		}
		if w.kill() {
			kills++
		}
		if strings.Contains(w.stderr.String(), "training goes on") {
			resumed++
		}
	}
	w.finish(want)
	t.Logf("of ten killed runs %d had gone on from an earlier one's state", resumed)
	if resumed == 0 {
		t.Error("no run went on from an earlier one's state: nothing was tested")
	}
}

// Ctrl-C ends a build with exit code 1 and leaves neither output nor parts.
func TestInterruptedBuild(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no interrupt can be sent to another process on Windows")
	}
	source := checkpoint(t)
	for attempt := 0; ; attempt++ {
		w := newWork(t, source)
		w.start()
		for len(w.names(w.cache())) < 2 && len(w.ended) == 0 { // the lock and a stage
			time.Sleep(100 * time.Microsecond)
		}
		if err := w.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		err := <-w.ended
		if err == nil && attempt < 10 {
			continue // it was done before it heard
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
			t.Fatalf("%v, wanted exit code %d\n%s", err, exitFailed, &w.stderr)
		}
		if text := w.stderr.String(); !strings.Contains(text, "cancel") && !strings.Contains(text, "interrupt") || strings.Count(text, "\n") != 1 {
			t.Errorf("it said %q", text)
		}
		if left := w.names(filepath.Dir(w.out())); len(left) > 0 {
			t.Errorf("it left %v beside the output", left)
		}
		for _, n := range w.names(w.cache()) {
			if strings.Contains(n, "part") {
				t.Errorf("it left %s in the cache", n)
			}
		}
		ok(t, "build", source, "-o", w.out(), "--cache", w.cache())
		return
	}
}

// A bundle that is cut while it answers is exit code 4, not a crash.
func TestBundleCutWhileRunning(t *testing.T) {
	data := assistantBundle(t)
	for _, threads := range []string{"1", "2"} {
		path := filepath.Join(t.TempDir(), "assistant.slmb")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cutting := writerFunc(func(p []byte) (int, error) { return len(p), os.Truncate(path, 20<<10) })
		n := run([]string{"slmc", "run", path, "--prompt", "what is the", "--threads", threads, "-n", "50"}, strings.NewReader(""), cutting, &stderr)
		if n != exitIntegrity || !strings.Contains(stderr.String(), "while it was mapped") {
			t.Errorf("%s threads: exit %d: %s", threads, n, &stderr)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
