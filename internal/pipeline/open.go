package pipeline

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"slmc/convert"
	"slmc/formats/bundle"
	"slmc/internal/exec"
	"slmc/model"
	slmrt "slmc/runtime"
	"slmc/tokenizer"
)

// Env is what the command knows of its surroundings and hands to the stages.
type Env struct {
	HFHome     string   // Hugging Face's cache; "" for none
	CacheDir   string   // of finished stages
	Threads    int      // 0: all CPUs
	Kernel     string   // "": the fastest
	IgnoreKeys []string // unknown config keys that the user vouches for
}

// Opened is a SOURCE or a BUNDLE: one of the two fields is nil. Commands that
// look at models take either.
type Opened struct {
	Path       string
	Bundle     *bundle.Bundle
	Checkpoint *convert.Checkpoint
	text       Text // of a checkpoint
}

// IsBundle reports whether the file at path starts as a bundle does, or is
// named like one: its reader says what is wrong with it.
func IsBundle(path string) (bool, error) {
	if filepath.Ext(path) == ".slmb" {
		return true, nil
	}
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
		return false, nil // nothing, a folder, or a pipe, of which an open may wait for ever
	}
	if err != nil {
		return false, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	head := make([]byte, len(magic))
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return string(head[:n]) == magic, errors.Join(err, f.Close())
}

// Open opens the checkpoint or the bundle at path.
func Open(ctx context.Context, path string, env Env) (*Opened, error) {
	is, err := IsBundle(path)
	if err != nil {
		return nil, err
	}
	if is {
		b, err := bundle.Open(path, bundle.Options{})
		if err != nil {
			return nil, err
		}
		return &Opened{Path: path, Bundle: b}, nil
	}
	c, err := convert.Open(ctx, path, convert.Options{HFHome: env.HFHome, IgnoreKeys: env.IgnoreKeys})
	if err != nil {
		return nil, err
	}
	t, err := loadText(c.Tokenizer, c.Model.Vocab)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &Opened{Path: path, Checkpoint: c, text: t}, nil
}

// Close closes the files. Models made of them must not be used afterwards.
func (o *Opened) Close() error {
	if o.Bundle != nil {
		return o.Bundle.Close()
	}
	return o.Checkpoint.Close()
}

// Graph is the model's graph.
func (o *Opened) Graph() *model.Graph {
	if o.Bundle != nil {
		return &o.Bundle.Manifest().Graph
	}
	return o.Checkpoint.Model.Graph
}

// Runtime makes the model runnable: a bundle in place, a checkpoint as float32
// with a float32 cache. context is the most positions that will be asked for;
// 0 means the model's own for a bundle, and for a checkpoint no more than
// DefaultContext.
func (o *Opened) Runtime(context int) (*slmrt.Model, error) {
	if o.Bundle != nil {
		return slmrt.FromBundle(o.Bundle)
	}
	m := o.Checkpoint.Model
	if context == 0 {
		context = min(m.Context, DefaultContext)
	}
	context = min(context, m.Context)
	params, err := exec.LoadParams(m, context)
	if err != nil {
		return nil, err
	}
	return &slmrt.Model{
		Graph: m.Graph, Params: params, Context: context, KV: exec.KVF32,
		Tokenizer: o.text.Tokenizer, Template: o.text.Template, Special: o.text.Special,
		BOS: o.text.BOS, Stops: o.text.Stops,
	}, nil
}

// DefaultContext is the context length of bundles and float runs of models
// that allow more, unless the user asks: tables and caches grow with it.
const DefaultContext = 4096

// Tokenizer is the model's tokenizer, nil if it has none.
func (o *Opened) Tokenizer() (*tokenizer.Tokenizer, error) {
	if o.Bundle == nil {
		return o.text.Tokenizer, nil
	}
	m, err := slmrt.FromBundle(o.Bundle)
	if err != nil {
		return nil, err
	}
	return m.Tokenizer, nil
}

// magic starts every bundle, of any version.
const magic = "SLMB"
