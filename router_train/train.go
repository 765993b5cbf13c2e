package routertrain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"slmc/internal/deferral"
	"slmc/internal/kernel"
	slmrt "slmc/runtime"
	"slmc/tokenizer/jinja"
)

// Config is all that decides a router, beside its data.
type Config struct {
	Split   Split         `json:"split"`
	Opinion OpinionConfig `json:"opinion"`
	Head    HeadConfig    `json:"head"`
	Folds   int           `json:"folds"` // of the cross-validation within the training part
	Seed    uint64        `json:"seed,string"`
	// Targets says what the heads learn: "risk" (wrong, and wrong with the large
	// model right), or one of Hybrid LLM's labels, see targetsOf.
	Targets string  `json:"targets"`
	Certify Certify `json:"certify"`
	// MaxTokens ends answers that do not end themselves.
	MaxTokens int `json:"max_tokens"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Split: DefaultSplit(), Opinion: DefaultOpinion(), Head: DefaultHead(), Folds: 4, Seed: 1,
		Targets: TargetRisk, Certify: DefaultCertify(), MaxTokens: 256,
	}
}

// Check reports a setting outside its range.
func (c *Config) Check() error {
	h, o := c.Head, c.Opinion
	switch {
	case c.Folds < 2 || c.Folds > 20:
		return fmt.Errorf("%d folds, want 2 to 20", c.Folds)
	case h.Hidden < 1 || h.Epochs < 1 || h.Batch < 1 || !(h.LR > 0) || !(h.Decay >= 0) || !(h.Drop >= 0 && h.Drop < 1):
		return fmt.Errorf("head %+v: out of range", h)
	case o.Unigrams < 1 || o.Bigrams < 0 || o.Dim < 1 || o.Classes < 2 || o.MinCount < 1 || o.Epochs < 1 || o.Batch < 1 || !(o.LR > 0) || !(o.Drop >= 0 && o.Drop < 1):
		return fmt.Errorf("second opinion %+v: out of range", o)
	case c.MaxTokens < 1:
		return fmt.Errorf("answers of %d tokens, want at least 1", c.MaxTokens)
	}
	return errors.Join(c.Split.Check(), c.Certify.Check())
}

// Pair is a prompt with its right answer, which teaches the second opinion.
type Pair struct{ Prompt, Answer string }

// Data is what a router is trained on. Examples[i] belongs to Labels.Rows[i].
type Data struct {
	Model    *slmrt.Model
	Weights  [32]byte // root of the model's weights
	Labels   *Labels
	Examples []Example
	Pairs    []Pair
}

// Trained is a router with what was learned about it on the way.
type Trained struct {
	Router *deferral.Router
	Report Report
	// Scored are all labelled queries as the router reads them, Parts their side
	// of the split. Those of the training part are seen with its own eyes: only
	// Report.CrossValidated is honest about them.
	Scored []Scored
	Parts  []Part
}

// minTrain is the number of labelled queries below which nothing is learned.
const minTrain = 40

// Fit trains, calibrates and certifies a router. The same data and config give
// the same router, whatever the number of threads.
func Fit(ctx context.Context, d Data, c Config, threads int, log *slog.Logger) (*Trained, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	f, err := kernel.Select("")
	if err != nil {
		return nil, err
	}
	t := &trainer{ctx: ctx, d: d, c: c, f: f, log: log, threads: threads, shape: slmrt.ShapeOf(d.Model)}
	return t.run()
}

type trainer struct {
	ctx     context.Context
	d       Data
	c       Config
	f       *kernel.Funcs
	log     *slog.Logger
	threads int
	shape   deferral.Shape

	parts   []Part
	folds   []int             // of the training part
	views   []deferral.View   // of each query, by an opinion that has not seen it
	opinion *deferral.Opinion // that ships
	targets []targets
	known   int // queries that were among the pairs
}

func (t *trainer) run() (*Trained, error) {
	rows := t.d.Labels.Rows
	if len(t.d.Examples) != len(rows) {
		panic(fmt.Sprintf("routertrain.Fit: %d examples for %d labels", len(t.d.Examples), len(rows)))
	}
	count := map[Part]int{}
	for i := range rows {
		p := t.c.Split.Part(rows[i].ID)
		count[p]++
		t.parts, t.folds = append(t.parts, p), append(t.folds, t.c.Split.fold(rows[i].ID, t.c.Folds))
	}
	if count[Train] < minTrain || count[Calibrate] < minTrain {
		return nil, fmt.Errorf("%w: %d queries to train and %d to calibrate on, want at least %d each", ErrLabels, count[Train], count[Calibrate], minTrain)
	}
	if t.c.Certify.Limit == "" {
		training := &Labels{}
		for i := range rows {
			if t.parts[i] == Train {
				training.Rows = append(training.Rows, rows[i])
			}
		}
		t.c.Certify.Limit = limitFor(training)
	}
	var err error
	if t.targets, err = targetsOf(t.c.Targets, t.d.Labels, t.parts); err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := t.opinions(); err != nil {
		return nil, err
	}
	t.log.Info("second opinion", "seconds", int(time.Since(begin).Seconds()), "classes", t.classes())
	p := deferral.Parts{Shape: t.shape, Weights: t.d.Weights, Opinion: t.opinion, Strange: t.strange()}
	report := Report{Config: t.c, Labels: t.d.Labels.Digest.String(), Queries: count, Known: t.known, Classes: t.classes()}
	for _, at := range deferral.Checkpoints() {
		h, r, err := t.checkpoint(at)
		if err != nil {
			return nil, err
		}
		if h == nil {
			continue
		}
		t.log.Info("head", "checkpoint", at, "kind", r.Shipped, "auroc", r.AUROC[r.Shipped].String())
		p.Heads, report.CrossValidated = append(p.Heads, *h), append(report.CrossValidated, r)
	}
	return t.finish(p, report)
}

func (t *trainer) classes() int {
	if t.opinion == nil {
		return 0
	}
	return len(t.opinion.Classes)
}

// opinions trains the second opinion and looks at every query with one that has
// not seen its answer: with pairs from elsewhere the same for all, else
// cross-validated in the training part.
func (t *trainer) opinions() error {
	t.views = make([]deferral.View, len(t.d.Examples))
	vocab := t.d.Model.Graph.Vocab
	elsewhere, err := t.pairs()
	if err != nil {
		return err
	}
	if len(elsewhere) > 0 {
		t.opinion = trainOpinion(t.c.Opinion, t.f, elsewhere, vocab, t.c.Seed)
		t.round()
		for i := range t.views {
			t.look(i, t.opinion)
		}
		return nil
	}
	own := t.ownLessons(-1)
	t.opinion = trainOpinion(t.c.Opinion, t.f, own, vocab, t.c.Seed)
	t.round()
	for i := range t.views {
		if t.parts[i] != Train {
			t.look(i, t.opinion)
		}
	}
	if t.opinion == nil {
		for i := range t.views {
			t.look(i, nil)
		}
		return nil
	}
	return t.crossed(vocab)
}

// crossed looks at the training queries of each fold with an opinion of the
// other folds. Its classes are those of the shipped one.
func (t *trainer) crossed(vocab int) error {
	return parallel(t.threads, t.c.Folds, nil, func() (func(int) error, func(), error) {
		return func(fold int) error {
			o := trainOpinion(t.c.Opinion, t.f, t.ownLessons(fold), vocab, t.c.Seed+uint64(fold)+1)
			if o == nil {
				return fmt.Errorf("%w: without fold %d too few answers are known to train a second opinion", ErrLabels, fold)
			}
			for i := range t.views {
				if t.parts[i] == Train && t.folds[i] == fold {
					t.look(i, o)
				}
			}
			return t.ctx.Err()
		}, func() {}, nil
	})
}

// round makes the shipped opinion what its section will hold.
func (t *trainer) round() {
	if t.opinion != nil {
		p := deferral.Parts{Opinion: t.opinion}
		p.Round()
	}
}

func (t *trainer) look(i int, o *deferral.Opinion) {
	e := &t.d.Examples[i]
	t.views[i].See(o, t.f, e.Prompt, &e.First)
}

// pairs encodes the pairs from elsewhere. Those of labelled queries are left out:
// an opinion that has seen a query's answer is surer of it than of others, and
// the certificate would be of queries that it knows.
func (t *trainer) pairs() ([]lesson, error) {
	labelled := map[string]bool{}
	for i := range t.d.Labels.Rows {
		labelled[t.d.Labels.Rows[i].ID] = true
	}
	all := len(t.d.Pairs)
	t.d.Pairs = slices.DeleteFunc(slices.Clone(t.d.Pairs), func(p Pair) bool { return labelled[QueryID(p.Prompt)] })
	if t.known = all - len(t.d.Pairs); t.known > 0 {
		t.log.Warn("queries of the router are among the examples: if the model was trained on those, it answers them better than new ones, and the certificate holds for such queries alone",
			"queries", t.known)
	}
	out := make([]lesson, len(t.d.Pairs))
	err := parallel(t.threads, len(out), nil, func() (func(int) error, func(), error) {
		return func(i int) (err error) {
			p := t.d.Pairs[i]
			if out[i], err = encodePair(t.d.Model, p.Prompt, p.Answer); err != nil {
				return fmt.Errorf("pair %d: %w", i+1, err)
			}
			return t.ctx.Err()
		}, func() {}, nil
	})
	return out, err
}

// ownLessons are the training queries, without a fold, to which a right answer
// is known.
func (t *trainer) ownLessons(without int) (out []lesson) {
	for i := range t.d.Labels.Rows {
		if t.parts[i] != Train || t.folds[i] == without {
			continue
		}
		r := &t.d.Labels.Rows[i]
		answer := r.Small.Answer
		if r.Small.Score < 1 {
			answer = ""
			if r.Large != nil && r.Large.Score == 1 {
				answer = r.Large.Answer
			}
		}
		if answer == "" {
			continue
		}
		if l, err := encodePair(t.d.Model, r.Query, answer); err == nil {
			l.prompt = t.d.Examples[i].Prompt
			out = append(out, l)
		}
	}
	return out
}

// encodeQuery renders a query as the model's user would send it; a model
// without a chat template gets the text as it is.
func encodeQuery(m *slmrt.Model, query string) ([]int32, error) {
	if m.Template == nil {
		return m.EncodeText(query)
	}
	return m.EncodeUser(query, time.Time{})
}

// encodePair returns the ids of a prompt and of the answer after it, its end
// included.
func encodePair(m *slmrt.Model, prompt, answer string) (lesson, error) {
	ids, err := encodeQuery(m, prompt)
	if err != nil {
		return lesson{}, err
	}
	if m.Template == nil {
		rest, err := m.Tokenizer.Encode(answer, false)
		return lesson{ids, rest}, err
	}
	whole, err := m.EncodeChat(slmrt.Chat{
		Messages: []jinja.Value{slmrt.Say("user", prompt), slmrt.Say("assistant", answer)}, Complete: true,
	})
	if err != nil {
		return lesson{}, err
	}
	if len(whole) < len(ids) || !slices.Equal(whole[:len(ids)], ids) {
		return lesson{}, errors.New("the chat template renders a prompt differently once it is answered")
	}
	return lesson{ids, whole[len(ids):]}, nil
}

// strange fits the out-of-distribution score on the training part.
func (t *trainer) strange() (s deferral.Strange) {
	var in [][deferral.StrangeSize]float32
	for i := range t.views {
		if t.parts[i] == Train {
			in = append(in, deferral.StrangeInputs(&t.views[i], &t.d.Examples[i].First))
		}
	}
	for k := range s.Mean {
		sum, square := 0.0, 0.0
		for _, u := range in {
			sum += float64(u[k])
		}
		mean := sum / float64(len(in))
		for _, u := range in {
			square += (float64(u[k]) - mean) * (float64(u[k]) - mean)
		}
		s.Mean[k] = float32(mean)
		if dev := math.Sqrt(square / float64(len(in))); dev > 1e-6 {
			s.Inv[k] = float32(1 / dev)
		}
	}
	var sums []float32
	for _, u := range in {
		sums = append(sums, s.Sum(u))
	}
	slices.Sort(sums)
	const points = 64
	for k := 0; k <= points; k++ {
		x, y := sums[k*(len(sums)-1)/points], float32(k)/points
		if n := len(s.CDF.X); n == 0 || x > s.CDF.X[n-1] {
			s.CDF.X, s.CDF.Y = append(s.CDF.X, x), append(s.CDF.Y, y)
		} else {
			s.CDF.Y[n-1] = y
		}
	}
	return s
}
