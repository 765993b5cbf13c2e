package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/edsrzf/mmap-go"

	"slmc/formats/bundle"
	"slmc/internal/exec"
	slmrt "slmc/runtime"
)

// streamed writes the bundle from the weights as they are packed, without a
// file between.
func (b *build) streamed() error {
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		w.CloseWithError(b.writeWeights(w))
	}()
	at := int64(0)
	err := b.write(b.cfg.Output, func(i int, dst io.Writer) error {
		s := b.plan.Stored[i]
		if _, err := io.CopyN(io.Discard, r, s.Offset-at); err != nil {
			return err
		}
		at = s.Offset + s.Bytes
		buf := make([]byte, min(s.Bytes, 1<<20))
		_, err := io.CopyBuffer(onlyWriter{dst}, io.LimitReader(r, s.Bytes), buf)
		return err
	}, nil)
	// When the bundle can't be written, the packer waits for a reader and
	// holds the source.
	err = errors.Join(err, r.Close())
	<-packed
	return err
}

// onlyWriter hides a ReadFrom that would choose its own buffer.
type onlyWriter struct{ io.Writer }

// write makes the bundle at path: weights as they are asked for, and the
// sections that are small.
func (b *build) write(path string, weight func(i int, dst io.Writer) error, golden []byte) error {
	if b.digests == nil {
		if err := b.digest(); err != nil {
			return err
		}
	}
	spec, err := b.spec()
	if err != nil {
		return err
	}
	spec.Weight = weight
	if golden != nil {
		spec.Sections = append(spec.Sections, bundle.Data{Name: bundle.SectionGolden, Bytes: golden})
	}
	_, err = bundle.Write(path, spec)
	return err
}

// finish writes what lies beside the bundle and fills the report from the file
// as it is.
func (b *build) finish() (err error) {
	out, err := bundle.Open(b.cfg.Output, bundle.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	m, r := out.Manifest(), &b.report
	r.Digest, r.Arch, r.Parameters = out.Digest().String(), m.Graph.Arch, m.Parameters
	r.FileBytes, r.BPW, r.FileBPW, r.Context = out.Size(), m.BPW, out.FileBPW(), m.Context
	r.KVPerToken = exec.KVBytesPerToken(&m.Graph, exec.KVFormat(m.KVFormat))
	r.MemoryBytes = m.Memory.Peak(m.Context, slmrt.DefaultBatch)
	r.PeakRSS = slmrt.PeakRSS()
	if budget := b.cfg.Recipe.Budget; budget != nil && budget.MaxBytes > 0 && out.Size() > budget.MaxBytes {
		return errors.Join(fmt.Errorf("%w: the bundle has %d bytes, %d were allowed: what is not weights took more than was set aside; ask for less", ErrGate, out.Size(), budget.MaxBytes),
			os.Remove(b.cfg.Output))
	}
	text, err := b.recipe.YAML()
	if err != nil {
		return err
	}
	if err := WriteFile(b.cfg.Output+".recipe.yaml", text, 0o644); err != nil {
		return err
	}
	report, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(b.cfg.Output+".report.json", append(report, '\n'), 0o644)
}

// mapFile maps a file of the cache.
func mapFile(path string) (data []byte, unmap func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	m, err := mmap.Map(f, mmap.RDONLY, 0)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return m, func() error { return errors.Join(m.Unmap(), f.Close()) }, nil
}
