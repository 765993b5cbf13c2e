package bundle

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"

	"slmc/formats"
)

// The delivery form of a bundle, .slmb.zst, is a zstd stream in the seekable
// format: independent frames of frameBytes of the bundle each, and a seek table
// in a skippable frame at the end, which other decoders skip. Weights are close
// to noise, so the gain is in scales, tables and the tokenizer; a larger frame
// or window gains nothing.
const (
	frameBytes = 4 << 20
	maxWindow  = 8 << 20
)

// Bounds on what Unpack believes. Packed weights shrink by a third at most;
// small bundles are mostly padding and shrink by more.
const (
	maxRatio    = 32
	ratioExempt = 64 << 20
)

// Pack compresses the bundle at src to dst. The header and the manifest must be
// sound; the contents are packed as they are. The same bundle gives the same
// bytes for one version of the compressor. progress, which may be nil, gets
// bytes of src done and in all.
func Pack(ctx context.Context, src, dst string, progress func(done, total int64)) error {
	b, err := Open(src, Options{})
	if err != nil {
		return err
	}
	err = formats.ReplaceFile(dst, 0o644, func(f *os.File) error { return b.pack(ctx, f, progress) })
	if err != nil {
		err = fmt.Errorf("pack %s: %w", dst, err)
	}
	return errors.Join(err, b.Close())
}

func (b *Bundle) pack(ctx context.Context, dst io.Writer, progress func(done, total int64)) error {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(frameBytes))
	if err != nil {
		return err
	}
	defer enc.Close()
	out, err := seekable.NewWriter(dst, enc)
	if err != nil {
		return err
	}
	buf := make([]byte, frameBytes)
	for at := int64(0); at < b.size; at += frameBytes {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(frameBytes, b.size-at)]
		if err := readFull(b.name, b.r, at, part); err != nil {
			return err
		}
		if _, err := out.Write(part); err != nil {
			return err
		}
		if progress != nil {
			progress(at+int64(len(part)), b.size)
		}
	}
	return out.Close()
}

// Unpack decompresses the delivery file src to the identical bundle dst. The
// header inside says how long the bundle is before a byte is written; a file
// that claims far more than its own length, or gives more or less than it
// claims, is ErrCorrupt. The bundle is fully checked before dst appears.
// progress, which may be nil, gets bytes of dst written and in all.
func Unpack(ctx context.Context, src, dst string, o Options, progress func(done, total int64)) error {
	in, err := openRegular(src)
	if err != nil {
		return err
	}
	err = formats.ReplaceFile(dst, 0o644, func(f *os.File) error { return unpackFile(ctx, in, f, o, progress) })
	if err != nil {
		err = fmt.Errorf("unpack %s: %w", dst, err)
	}
	return errors.Join(err, in.Close())
}

func unpackFile(ctx context.Context, in, out *os.File, o Options, progress func(done, total int64)) error {
	st, err := in.Stat()
	if err != nil {
		return err
	}
	name := filepath.Base(in.Name())
	if err := unpack(ctx, name, in, st.Size(), out, progress); err != nil {
		return err
	}
	if st, err = out.Stat(); err != nil {
		return err
	}
	b, err := parse(name, out, st.Size())
	if err != nil {
		return err
	}
	if o.PublicKey != nil {
		if err := b.VerifySignature(o.PublicKey); err != nil {
			return err
		}
	}
	return b.check(ctx, nil)
}

// unpack decompresses size bytes of in to out, trusting nothing.
func unpack(ctx context.Context, name string, in io.Reader, size int64, out io.Writer, progress func(done, total int64)) error {
	dec, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return packError(name, "no zstd stream", err)
	}
	defer dec.Close()
	head := make([]byte, HeaderBytes)
	if n, err := io.ReadFull(dec, head); err != nil {
		return packError(name, fmt.Sprintf("the stream ends or breaks after %d bytes, wanted a header of %d", n, HeaderBytes), err)
	}
	total, err := claimedSize(name, head, size)
	if err != nil {
		return err
	}
	if _, err := out.Write(head); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for done := int64(HeaderBytes); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := dec.Read(buf)
		if done += int64(n); done > total {
			return formats.Corrupt(name, "", -1, "the stream holds more than the %d bytes that the header inside claims", total)
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return err
		}
		if progress != nil {
			progress(done, total)
		}
		if errors.Is(err, io.EOF) && done == total {
			return nil
		}
		if err != nil {
			return packError(name, fmt.Sprintf("the stream ends or breaks after %d bytes, wanted %d", done, total), err)
		}
	}
}

// claimedSize reads the length of the bundle from its header, and refuses one
// that size packed bytes can hardly hold.
func claimedSize(name string, head []byte, size int64) (int64, error) {
	h, err := parseHeader(name, head, int64(binary.LittleEndian.Uint64(head[atFileBytes:])))
	if err != nil {
		return 0, err
	}
	if h.fileBytes > ratioExempt && h.fileBytes/maxRatio > size {
		return 0, formats.Corrupt(name, "", -1, "%d packed bytes claim to hold %d, more than %d times as much", size, h.fileBytes, maxRatio)
	}
	return h.fileBytes, nil
}

func packError(name, msg string, err error) error {
	return &formats.Error{File: name, Offset: -1, Kind: formats.ErrCorrupt, Msg: msg, Err: err}
}
