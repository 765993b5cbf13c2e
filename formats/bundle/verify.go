package bundle

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"slmc/formats"
)

// Check reads the whole file, not its mapping, and compares every digest that
// the manifest holds, and the padding with zero. The error names the section
// and the byte where the first leaf that differs starts. progress, which may be
// nil, is called from this goroutine with the bytes done and the file's length.
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
	c := checker{b: b, ctx: ctx, progress: progress, buf: make([]byte, LeafBytes)}
	// The leaves first: they say where the rest is damaged.
	sections := b.manifest.Sections
	last := &sections[len(sections)-1]
	leaves := make([]byte, 0, last.Length)
	err := c.section(last, func(_ int64, part []byte, _ Digest) error {
		leaves = append(leaves, part...)
		return nil
	})
	if err != nil {
		return err
	}
	end := int64(HeaderBytes)
	before := "the header"
	for i := range sections {
		s := &sections[i]
		if err := c.padding(before, end, s.Offset); err != nil {
			return err
		}
		before, end = fmt.Sprintf("section %q", s.Name), s.Offset+s.Length
		if s == last {
			continue
		}
		err := c.section(s, func(at int64, _ []byte, sum Digest) error {
			want := Digest(leaves)
			leaves = leaves[len(want):]
			if sum != want {
				return formats.Corrupt(b.name, "", at, "section %q: leaf at its byte %d has SHA-256 %s, section %q says %s", s.Name, at-s.Offset, sum, SectionLeaves, want)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := c.padding(before, end, b.header.manifestAt); err != nil {
		return err
	}
	// Open has checked the header and the manifest as they were then.
	return c.headAndManifest()
}

type checker struct {
	b        *Bundle
	ctx      context.Context
	progress func(done, total int64)
	buf      []byte
	done     int64
}

// read returns n bytes from at, at most LeafBytes, valid until the next read.
func (c *checker) read(at, n int64) ([]byte, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	if err := readFull(c.b.name, c.b.r, at, c.buf[:n]); err != nil {
		return nil, err
	}
	c.done += n
	c.progress(c.done, c.b.size)
	return c.buf[:n], nil
}

// section calls leaf for each leaf of s and compares the section's own digest.
func (c *checker) section(s *Section, leaf func(at int64, part []byte, sum Digest) error) error {
	whole := sha256.New()
	for off := int64(0); off < s.Length; off += LeafBytes {
		part, err := c.read(s.Offset+off, min(LeafBytes, s.Length-off))
		if err != nil {
			return err
		}
		var sum Digest
		var both sync.WaitGroup
		both.Go(func() { sum = sha256.Sum256(part) })
		whole.Write(part)
		both.Wait()
		if err := leaf(s.Offset+off, part, sum); err != nil {
			return err
		}
	}
	if sum := Digest(whole.Sum(nil)); sum != s.SHA256 {
		return formats.Corrupt(c.b.name, "", s.Offset, "section %q: SHA-256 is %s, the manifest says %s", s.Name, sum, s.SHA256)
	}
	return nil
}

// padding checks that the bytes from at to end, which are less than a leaf,
// are zero.
func (c *checker) padding(before string, at, end int64) error {
	part, err := c.read(at, end-at)
	if err != nil {
		return err
	}
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
