package slmrt

import (
	"slmc/internal/deferral"
	"slmc/internal/exec"
	"slmc/tensor"
)

// tap is exec's operations with a look at the residual stream on its way.
type tap struct {
	exec.Ops
	see func(block int, x *tensor.Mat)
}

// Begin implements exec.Ops.
func (t tap) Begin(block int, x *tensor.Mat) *tensor.Mat {
	x = t.Ops.Begin(block, x)
	if x != nil {
		t.see(block, x)
	}
	return x
}

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
	d := &reader{s: s, r: s.m.router, on: r.OnReading, found: s.see, c: s.m.router.NewCollector()}
	d.c.Start(len(r.Prompt))
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

// readings are those that were made.
func (d *reader) readings() []deferral.Reading {
	if d == nil {
		return nil
	}
	return d.all
}
