package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"path/filepath"

	"slmc/formats"
)

// FileDigest identifies a file by its content.
type FileDigest struct {
	Name   string `json:"name"` // base name: paths differ between machines
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Digests reads every file of the checkpoint and returns their SHA-256, in the
// order of Files.
func (c *Checkpoint) Digests(ctx context.Context) ([]FileDigest, error) {
	var out []FileDigest
	for _, path := range c.Files {
		d, err := digest(ctx, path)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func digest(ctx context.Context, path string) (d FileDigest, err error) {
	f, err := formats.OpenFile(path)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	r := f.Section(0, f.Size())
	for {
		if err := ctx.Err(); err != nil {
			return d, err
		}
		_, err := io.CopyN(h, r, 1<<20)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return d, err
		}
	}
	return FileDigest{Name: filepath.Base(path), Bytes: f.Size(), SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}
