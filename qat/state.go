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
	"strings"

	"slmc/formats"
)

// A state is what an unfinished run needs to go on, bit for bit:
//
//	magic    8 bytes "slmcqat2"
//	numbers  count (uint64) and uint64 each
//	losses   count (uint64) and float64 bits each
//	arrays   count (uint64), then for each its length (uint64) and float32s
//	sum      SHA-256 of all before
//
// all little-endian. The run's cache key is part of its name; any damage is an
// error instead of going on from something else. Each finished unit of blocks
// has a file of its own, the end-to-end phase one that is replaced.
const stateMagic = "slmcqat2"

// state is the content of a state file.
type state struct {
	numbers []uint64
	losses  []float64
	arrays  [][]float32
}

// maxNumbers bounds the numbers and losses of a state.
const maxNumbers = 1 << 16

// Clean removes all that a run has kept under the name state.
func Clean(state string) error {
	if state == "" {
		return nil
	}
	folder, base := filepath.Split(state)
	entries, err := os.ReadDir(filepath.Clean(folder))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), base) {
			err = errors.Join(err, os.Remove(filepath.Join(folder, e.Name())))
		}
	}
	return err
}

// writeState writes a state beside its place and renames it.
func writeState(path string, s state) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part*")
	if err != nil {
		return fmt.Errorf("save training state: %w", err)
	}
	w := &summed{w: bufio.NewWriterSize(f, 1<<20), sum: sha256.New()}
	w.bytes([]byte(stateMagic))
	w.number(uint64(len(s.numbers)))
	w.number(s.numbers...)
	w.number(uint64(len(s.losses)))
	w.float(s.losses...)
	w.number(uint64(len(s.arrays)))
	for _, a := range s.arrays {
		w.number(uint64(len(a)))
		w.array(a)
	}
	err = errors.Join(w.finish(), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("save training state: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// readState reads a state into arrays of known lengths; found is false when
// there is no file.
func readState(path string, arrays [][]float32) (s state, found bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("read training state: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	damaged := func(format string, args ...any) error { return damagedState(path, format, args...) }
	if reason, err := checkState(f); err != nil {
		return s, false, fmt.Errorf("read training state: %w", err)
	} else if reason != "" {
		return s, false, damaged("%s", reason)
	}
	r := &numbers{r: bufio.NewReaderSize(f, 1<<20)}
	magic := make([]byte, len(stateMagic))
	r.read(magic)
	if r.err == nil && string(magic) != stateMagic {
		return s, false, damaged("magic %q, wanted %q", magic, stateMagic)
	}
	n := r.number()
	if n > maxNumbers {
		return s, false, damaged("%d numbers", n)
	}
	s.numbers = make([]uint64, n)
	r.read(s.numbers)
	if n = r.number(); n > maxNumbers {
		return s, false, damaged("%d losses", n)
	}
	s.losses = make([]float64, n)
	r.read(s.losses)
	if n = r.number(); n != uint64(len(arrays)) {
		return s, false, damaged("%d arrays, wanted %d", n, len(arrays))
	}
	for i, a := range arrays {
		if n = r.number(); n != uint64(len(a)) {
			return s, false, damaged("array %d has %d numbers, wanted %d", i, n, len(a))
		}
		r.read(a)
	}
	if r.err != nil {
		return s, false, fmt.Errorf("read training state: %w", r.err)
	}
	s.arrays = arrays
	return s, true, nil
}

func damagedState(path, format string, args ...any) error {
	return formats.Corrupt(path, "", -1, "training state: %s; remove the file to start anew", fmt.Sprintf(format, args...))
}

// checkState compares the sum at the end of the file and leaves it at the
// start; reason is what is wrong with it.
func checkState(f *os.File) (reason string, err error) {
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if st.Size() < int64(len(stateMagic)+sha256.Size) {
		return fmt.Sprintf("%d bytes", st.Size()), nil
	}
	h := sha256.New()
	if _, err := io.CopyN(h, f, st.Size()-sha256.Size); err != nil {
		return "", err
	}
	sum := make([]byte, sha256.Size)
	if _, err := io.ReadFull(f, sum); err != nil {
		return "", err
	}
	if string(sum) != string(h.Sum(nil)) {
		return "its SHA-256 does not match", nil
	}
	_, err = f.Seek(0, io.SeekStart)
	return "", err
}

// numbers reads and keeps the first error.
type numbers struct {
	r   io.Reader
	err error
}

func (n *numbers) read(v any) {
	if n.err != nil {
		return
	}
	if a, ok := v.([]float32); ok {
		// In pieces: the decoder wants all of a slice's bytes at once.
		for len(a) > 0 && n.err == nil {
			k := min(len(a), 1<<16)
			n.err = binary.Read(n.r, binary.LittleEndian, a[:k])
			a = a[k:]
		}
		return
	}
	n.err = binary.Read(n.r, binary.LittleEndian, v)
}

func (n *numbers) number() uint64 {
	var v uint64
	n.read(&v)
	return v
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
