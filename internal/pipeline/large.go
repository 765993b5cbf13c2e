package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"slmc/formats/bundle"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
)

// Large says who the large model is.
type Large struct {
	// From is a bundle or checkpoint, a JSONL file of answers, or the address of
	// an OpenAI-compatible endpoint.
	From     string
	Endpoint routertrain.EndpointConfig // its URL is From
	Parallel int                        // requests in flight to an endpoint
}

// OpenedLarge is a large model that can be asked.
type OpenedLarge struct {
	routertrain.Answerer
	Parallel int
	endpoint *routertrain.Endpoint
	close    func() error
}

// Close gives back what it holds.
func (l *OpenedLarge) Close() error { return l.close() }

// Usage is what an endpoint was asked and billed; nil for others.
func (l *OpenedLarge) Usage() *routertrain.Usage {
	if l.endpoint == nil {
		return nil
	}
	u := l.endpoint.Usage()
	return &u
}

// isURL reports whether a large model is an endpoint.
func isURL(from string) bool {
	return strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://")
}

// isAnswers reports whether a large model is a file of answers.
func isAnswers(from string) bool {
	st, err := os.Stat(from)
	return err == nil && st.Mode().IsRegular() && filepath.Ext(from) == ".jsonl"
}

// identity names a large model in cache keys and in the bundle's recipe: what
// answers the same has the same one. A folder is its files, whatever its name; of
// an address nothing is kept that may be a key.
func (l Large) identity(ctx context.Context) (string, error) {
	if isURL(l.From) {
		c := l.Endpoint
		c.URL = l.From
		if _, err := routertrain.NewEndpoint(c); err != nil {
			return "", fmt.Errorf("%w: %w", ErrUsage, err)
		}
		u, err := url.Parse(l.From)
		if err != nil {
			return "", err
		}
		return u.Scheme + "://" + u.Host + u.EscapedPath() + " " + l.Endpoint.Model, nil
	}
	st, err := os.Stat(l.From)
	if ext := filepath.Ext(l.From); errors.Is(err, os.ErrNotExist) && ext != ".slmb" && ext != ".jsonl" {
		return l.From, nil // it may be a model's name in Hugging Face's cache
	}
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return fileDigest(ctx, l.From)
	}
	files, err := os.ReadDir(l.From) // in the order of their names
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, f := range files {
		path := filepath.Join(l.From, f.Name())
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			continue // a model's files lie side by side; a link to one is one
		}
		sum, err := fileDigest(ctx, path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q %s\n", f.Name(), sum)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Probe is an error where nobody would answer, to tell so before anything long is
// done for it: an endpoint is asked for its models, a file is read, a model is found.
func (l Large) Probe(ctx context.Context, env Env) error {
	if !isURL(l.From) && !isAnswers(l.From) {
		o, err := Open(ctx, l.From, env)
		if err != nil {
			return fmt.Errorf("large model: %w", err)
		}
		return o.Close()
	}
	o, err := OpenLarge(ctx, l, env, 1, 1, 1, 0)
	if err != nil {
		return err
	}
	if o.endpoint != nil {
		if err := o.endpoint.Probe(ctx); err != nil {
			return errors.Join(fmt.Errorf("large model: %s: %w", o.Name(), err), o.Close())
		}
	}
	return o.Close()
}

// OpenLarge opens a large model with as many sessions as threads; samples are
// drawn at that temperature.
func OpenLarge(ctx context.Context, l Large, env Env, threads, maxTokens int, temperature float32, seed uint64) (*OpenedLarge, error) {
	switch {
	case isURL(l.From):
		c := l.Endpoint
		c.URL, c.MaxTokens, c.Temperature, c.Seed = l.From, maxTokens, temperature, seed
		e, err := routertrain.NewEndpoint(c)
		if err != nil {
			return nil, fmt.Errorf("%w: large model: %w", ErrUsage, err)
		}
		return &OpenedLarge{e, max(1, l.Parallel), e, func() error { return nil }}, nil
	case isAnswers(l.From):
		a, err := routertrain.ReadAnswers(l.From)
		if err != nil {
			return nil, fmt.Errorf("large model: %w", err)
		}
		return &OpenedLarge{a, 1, nil, func() error { return nil }}, nil
	}
	o, err := Open(ctx, l.From, env)
	if err != nil {
		return nil, fmt.Errorf("large model: %w", err)
	}
	m, err := o.Runtime(0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("large model: %w", err), o.Close())
	}
	local, err := routertrain.NewLocalModel(m, filepath.Base(l.From), slmrt.Options{Kernel: env.Kernel}, threads, maxTokens, temperature, seed)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("large model: %w", err), o.Close())
	}
	return &OpenedLarge{local, max(1, threads), nil, func() error { local.Close(); return o.Close() }}, nil
}

// weightsRoot is the digest that a router is tied to.
func weightsRoot(b *bundle.Bundle) bundle.Digest {
	return b.Manifest().Section(bundle.SectionWeights).Root
}
