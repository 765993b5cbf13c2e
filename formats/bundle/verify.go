package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"slmc/formats"
)

// Check reads the whole file, not its mapping, and compares every digest that
// the manifest holds, and the padding with zero, on all cores. The error names
// the section and the byte where the first leaf that differs starts. progress,
// which may be nil, is called from this goroutine with the bytes done and the
// file's length.
func (b *Bundle) Check(ctx context.Context, progress func(done, total int64)) error {
	if b.data == nil {
		panic("bundle: " + b.name + " is used after Close")
	}
	return b.check(ctx, progress)
}

func (b *Bundle) check(ctx context.Context, progress func(done, total int64)) error {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	c := checker{b: b, ctx: ctx, progress: progress}
	// The leaves first: they say where the rest is damaged.
	sections := b.manifest.Sections
	last := &sections[len(sections)-1]
	leaves, err := c.listed(last)
	if err != nil {
		return err
	}
	before, end := "the header", int64(HeaderBytes)
	for i := range sections {
		s := &sections[i]
		if err := c.padding(before, end, s.Offset); err != nil {
			return err
		}
		before, end = fmt.Sprintf("section %q", s.Name), s.Offset+s.Length
		if s == last {
			break
		}
		n := leavesOf(s.Length) * sha256.Size
		if err := c.section(s, leaves[:n]); err != nil {
			return err
		}
		leaves = leaves[n:]
	}
	if err := c.padding(before, end, b.header.manifestAt); err != nil {
		return err
	}
	// Open has checked the header and the manifest as they were then.
	return c.headAndManifest()
}

// CheckedSection returns a copy of a section's bytes that fits the digest in the
// manifest; nil when the bundle has none of that name. It is for what is small and is
// not mapped for use: a section of more than most bytes is an error before any is
// copied.
func (b *Bundle) CheckedSection(name string, most int64) ([]byte, error) {
	s := b.manifest.Section(name)
	if s == nil {
		return nil, nil
	}
	if s.Length > most {
		return nil, formats.Corrupt(b.name, "", s.Offset, "section %q: %d bytes, at most %d are read", name, s.Length, most)
	}
	content := bytes.Clone(b.bytes(s.Offset, s.Length))
	return content, b.fits(s, content)
}

// fits compares the content of a section with its digest.
func (b *Bundle) fits(s *Section, content []byte) error {
	h := newLeafHash()
	h.Write(content)
	if root, _ := h.sums(); root != s.Root {
		return formats.Corrupt(b.name, "", s.Offset, "section %q: root is %s, the manifest says %s", s.Name, root, s.Root)
	}
	return nil
}

type checker struct {
	b        *Bundle
	ctx      context.Context
	progress func(done, total int64)
	done     int64
}

// listed returns the content of the section of leaves after checking it.
func (c *checker) listed(s *Section) ([]byte, error) {
	list := make([]byte, s.Length)
	if err := readFull(c.b.name, c.b.r, s.Offset, list); err != nil {
		return nil, err
	}
	c.done += s.Length
	return list, c.b.fits(s, list)
}

// section compares a section with the digests of its leaves, and these with
// the root in the manifest.
func (c *checker) section(s *Section, want []byte) error {
	if root := Digest(sha256.Sum256(want)); root != s.Root {
		return formats.Corrupt(c.b.name, "", s.Offset, "section %q: root of its digests in section %q is %s, the manifest says %s", s.Name, SectionLeaves, root, s.Root)
	}
	got, err := c.sums(s)
	if err != nil || bytes.Equal(got, want) {
		return err
	}
	i := 0
	for got[i] == want[i] {
		i++
	}
	i -= i % sha256.Size
	at := int64(i/sha256.Size) * LeafBytes
	return formats.Corrupt(c.b.name, "", s.Offset+at, "section %q: leaf at its byte %d has SHA-256 %x, section %q says %x",
		s.Name, at, got[i:i+sha256.Size], SectionLeaves, want[i:i+sha256.Size])
}

// sums reads a section and returns the digests of its leaves.
func (c *checker) sums(s *Section) ([]byte, error) {
	leaves := leavesOf(s.Length)
	out := make([]byte, leaves*sha256.Size)
	workers := min(int64(runtime.GOMAXPROCS(0)), leaves)
	ctx, stop := context.WithCancel(c.ctx)
	defer stop()
	read, errs := make(chan int64), make([]error, workers)
	var next atomic.Int64
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			buf := make([]byte, min(LeafBytes, s.Length))
			for i := next.Add(1) - 1; i < leaves && errs[w] == nil; i = next.Add(1) - 1 {
				part := buf[:min(LeafBytes, s.Length-i*LeafBytes)]
				if errs[w] = errors.Join(ctx.Err(), readFull(c.b.name, c.b.r, s.Offset+i*LeafBytes, part)); errs[w] != nil {
					stop()
					return
				}
				sum := sha256.Sum256(part)
				copy(out[i*sha256.Size:], sum[:])
				read <- int64(len(part))
			}
		})
	}
	go func() { all.Wait(); close(read) }()
	for n := range read {
		c.done += n
		c.progress(c.done, c.b.size)
	}
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return nil, err
		}
	}
	return out, nil
}

// padding checks that the bytes from at to end are zero: less than
// SectionAlign of them.
func (c *checker) padding(before string, at, end int64) error {
	part := make([]byte, end-at)
	if err := readFull(c.b.name, c.b.r, at, part); err != nil {
		return err
	}
	c.done += end - at
	if i := firstNonZero(part); i >= 0 {
		return formats.Corrupt(c.b.name, "", at+int64(i), "padding after %s: byte %#02x, wanted zero", before, part[i])
	}
	return nil
}

// headAndManifest reads both again.
func (c *checker) headAndManifest() error {
	again, err := parse(c.b.name, c.b.r, c.b.size)
	if err != nil {
		return err
	}
	if again.digest != c.b.digest {
		return formats.Corrupt(c.b.name, "", 0, "digest is %s, it was %s when the file was opened", again.digest, c.b.digest)
	}
	c.progress(c.b.size, c.b.size)
	return nil
}
