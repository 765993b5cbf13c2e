package slmrt

import (
	"errors"
	"fmt"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/deferral"
	"slmc/internal/exec"
	"slmc/tensor"
)

// Observe lets see look at the residual stream [R D] that enters each block,
// and the head as block L, in every batch from now on; nil ends it. The rows are
// the batch's last R tokens: all of them up to the last block that computes keys
// and values, and from there on those whose logits are wanted. x is valid
// during the call and must not be changed.
func (s *Session) Observe(see func(block int, x *tensor.Mat)) { s.see = see }

// Router is the bundle's deferral router; nil without one.
func (m *Model) Router() *deferral.Router { return m.router }

// reader computes a router's readings along a generation. A nil reader reads
// nothing.
type reader struct {
	s     *Session
	c     *deferral.Collector
	r     *deferral.Router
	on    func(deferral.Reading) bool
	all   []deferral.Reading
	found func(block int, x *tensor.Mat) // what the session's owner observes
}

// startReader prepares the readings of a request; nil when nobody wants them or
// the model has no router.
func (s *Session) startReader(r Request) *reader {
	if r.OnReading == nil || s.m.router == nil {
		return nil
	}
	d := &reader{s: s, r: s.m.router, on: r.OnReading, found: s.see, c: s.m.router.NewCollector(s.f)}
	d.c.Start(r.Prompt)
	s.see = d.c.State
	if d.found != nil {
		s.see = func(block int, x *tensor.Mat) {
			d.found(block, x)
			d.c.State(block, x)
		}
	}
	return d
}

// end gives the session back as it was.
func (d *reader) end() {
	if d != nil {
		d.s.see = d.found
	}
}

// prompt takes the logits after the prompt and asks for the first reading.
func (d *reader) prompt(z []float32) (handoff bool) {
	if d == nil {
		return false
	}
	d.c.Prompt(z)
	return d.read(deferral.Pre, false)
}

// token takes a generated token and the logits that it was chosen from.
func (d *reader) token(z []float32, id int32) {
	if d != nil {
		d.c.Token(z, id)
	}
}

// read asks for the reading of a checkpoint and reports whether the generation
// is handed off there.
func (d *reader) read(at deferral.Checkpoint, ended bool) bool {
	if d == nil || !d.r.Reads(at) {
		return false
	}
	x := d.c.Read(at, ended)
	d.all = append(d.all, x)
	return d.on(x)
}

// readings are those that were made, and the signals of the answer.
func (d *reader) readings() ([]deferral.Reading, deferral.Signals) {
	if d == nil {
		return nil, deferral.Signals{}
	}
	return d.all, d.c.Signals()
}

// loadRouter decodes the router section of a bundle, if it has one, after
// comparing its digest: a flipped bit in a threshold or in a head would change who
// answers, and nothing else would show it. It holds the router to the weights that
// it was trained on: another model's would read noise.
func loadRouter(b *bundle.Bundle, m *Model) error {
	text, err := b.CheckedSection(bundle.SectionRouter, deferral.MaxSection)
	if text == nil || err != nil {
		return err
	}
	at := b.Manifest().Section(bundle.SectionRouter).Offset
	r, err := deferral.Decode(text)
	if err != nil {
		var known *formats.Error
		if errors.As(err, &known) && known.File == "" {
			e := *known
			e.File, e.Offset = b.Name(), at+max(e.Offset, 0)
			return &e
		}
		return sectionError(b, bundle.SectionRouter, err)
	}
	weights := bundle.Digest(r.Weights())
	if root := b.Manifest().Section(bundle.SectionWeights).Root; weights != root {
		return formats.Corrupt(b.Name(), "", at+16, "router: it was trained on weights with digest %s, the bundle holds %s; train a router on this bundle", weights, root)
	}
	if want := ShapeOf(m); r.Shape() != want {
		return formats.Corrupt(b.Name(), "", at, "router: made for %+v, the model is %+v", r.Shape(), want)
	}
	m.router = r
	return nil
}

// ShapeOf is what a router has to know of a model.
func ShapeOf(m *Model) deferral.Shape {
	return deferral.Shape{Blocks: len(m.Graph.Blocks), Hidden: m.Graph.Hidden, Giver: exec.LastGiver(m.Graph)}
}

// WithRouter returns the same model with another router, nil for none: what a
// router's maker measures before it is stored.
func (m *Model) WithRouter(r *deferral.Router) (*Model, error) {
	if r != nil && r.Shape() != ShapeOf(m) {
		return nil, fmt.Errorf("router made for %+v, the model is %+v", r.Shape(), ShapeOf(m))
	}
	c := *m
	c.router = r
	return &c, nil
}
