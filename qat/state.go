package qat

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"slmc/formats"
)

// A state is what an unfinished run needs to go on, bit for bit:
//
//	magic    8 bytes "slmcqat1"
//	header   step, tokens, optimizer steps (uint64 each), first loss, number of
//	         recent losses, these losses (float64 bits), number of arrays
//	arrays   length (uint64) and float32 each: for every weight w and scales,
//	         then the optimizer's m and v of both
//	sum      SHA-256 of all before
//
// all little-endian. It is read by the process that wrote it, so to speak: the
// cache key of the run is part of its name, and any damage starts the run anew
// with an error instead of going on from something else.
const stateMagic = "slmcqat1"

// arrays lists everything that learns, in the order of the file.
func (t *trainer) arrays() [][]float32 {
	var out [][]float32
	for _, l := range t.s.all {
		out = append(out, l.w, l.scales, l.levels)
	}
	_, m, v := t.opt.State()
	return append(append(out, m...), v...)
}

// save writes the state beside its place and renames it.
func (t *trainer) save() error {
	if t.State == "" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(t.State), filepath.Base(t.State)+".part*")
	if err != nil {
		return fmt.Errorf("save training state: %w", err)
	}
	w := &summed{w: bufio.NewWriterSize(f, 1<<20), sum: sha256.New()}
	steps, _, _ := t.opt.State()
	w.bytes([]byte(stateMagic))
	w.number(uint64(t.step), uint64(t.report.Tokens), uint64(steps))
	w.float(t.report.FirstLoss)
	w.number(uint64(len(t.recent)))
	w.float(t.recent...)
	all := t.arrays()
	w.number(uint64(len(all)))
	for _, a := range all {
		w.number(uint64(len(a)))
		w.array(a)
	}
	err = errors.Join(w.finish(), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), t.State)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("save training state: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// resume goes on from the state file, if there is one.
func (t *trainer) resume() (err error) {
	if t.State == "" {
		return nil
	}
	f, err := os.Open(t.State)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read training state: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := t.check(f); err != nil {
		return err
	}
	r := bufio.NewReaderSize(f, 1<<20)
	if _, err := r.Discard(len(stateMagic)); err != nil {
		return fmt.Errorf("read training state: %w", err)
	}
	read := func(v any) {
		if err == nil {
			err = binary.Read(r, binary.LittleEndian, v)
		}
	}
	var head struct {
		Step, Tokens, Steps uint64
		First               float64
		Recent              uint64
	}
	read(&head)
	if head.Recent > lossWindow {
		return t.damaged("%d recent losses", head.Recent)
	}
	t.recent = make([]float64, head.Recent)
	read(t.recent)
	var n uint64
	read(&n)
	all := t.arrays()
	if err == nil && n != uint64(len(all)) {
		return t.damaged("%d arrays, wanted %d", n, len(all))
	}
	for i, a := range all {
		read(&n)
		if err == nil && n != uint64(len(a)) {
			return t.damaged("array %d has %d numbers, wanted %d", i, n, len(a))
		}
		read(a)
	}
	if err != nil {
		return fmt.Errorf("read training state: %w", err)
	}
	t.step, t.report.Tokens, t.report.FirstLoss = int(head.Step), int(head.Tokens), head.First
	_, m, v := t.opt.State()
	t.opt.Restore(int(head.Steps), m, v)
	if t.Log != nil {
		t.Log.Info("training goes on", "step", t.step, "steps", len(t.batches))
	}
	return nil
}

// check compares the sum at the end of the file and leaves it at the start.
func (t *trainer) check(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read training state: %w", err)
	}
	if st.Size() < int64(len(stateMagic)+sha256.Size) {
		return t.damaged("%d bytes", st.Size())
	}
	h := sha256.New()
	if _, err := io.CopyN(h, f, st.Size()-sha256.Size); err != nil {
		return fmt.Errorf("read training state: %w", err)
	}
	sum := make([]byte, sha256.Size)
	if _, err := io.ReadFull(f, sum); err != nil {
		return fmt.Errorf("read training state: %w", err)
	}
	if string(sum) != string(h.Sum(nil)) {
		return t.damaged("its SHA-256 does not match")
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

func (t *trainer) damaged(format string, args ...any) error {
	return formats.Corrupt(t.State, "", -1, "training state: %s; remove the file to start anew", fmt.Sprintf(format, args...))
}

// summed writes and hashes.
type summed struct {
	w   *bufio.Writer
	sum hash.Hash
	err error
	buf []byte
}

func (s *summed) bytes(p []byte) {
	if s.err == nil {
		_, s.err = s.w.Write(p)
		s.sum.Write(p)
	}
}

func (s *summed) number(vs ...uint64) {
	for _, v := range vs {
		s.buf = binary.LittleEndian.AppendUint64(s.buf[:0], v)
		s.bytes(s.buf)
	}
}

func (s *summed) float(vs ...float64) {
	for _, v := range vs {
		s.buf, _ = binary.Append(s.buf[:0], binary.LittleEndian, v)
		s.bytes(s.buf)
	}
}

func (s *summed) array(a []float32) {
	for len(a) > 0 {
		n := min(len(a), 1<<16)
		s.buf, _ = binary.Append(s.buf[:0], binary.LittleEndian, a[:n])
		s.bytes(s.buf)
		a = a[n:]
	}
}

func (s *summed) finish() error {
	if s.err != nil {
		return s.err
	}
	if _, err := s.w.Write(s.sum.Sum(nil)); err != nil {
		return err
	}
	return s.w.Flush()
}
