package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/lockedfile"
)

// Cache keeps the files that finished stages made, under the digest of what
// went in, so that a killed build resumes. Its folder is private and locked
// while in use; an entry is hashed again before it is trusted.
type Cache struct {
	dir    string
	unlock func()
}

// OpenCache creates dir (mode 0700) if needed and locks it; it waits for
// another build to finish.
func OpenCache(dir string) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	unlock, err := lockedfile.MutexAt(filepath.Join(dir, "lock")).Lock()
	if err != nil {
		return nil, fmt.Errorf("cache: lock %s: %w", dir, err)
	}
	c := &Cache{dir, unlock}
	return c, c.sweep()
}

// Close releases the lock.
func (c *Cache) Close() { c.unlock() }

// sweep removes what a killed build left half written.
func (c *Cache) sweep() error {
	left, err := filepath.Glob(filepath.Join(c.dir, "*.part*"))
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	for _, f := range left {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cache: %w", err)
		}
	}
	return nil
}

// Key is the digest of a stage's name, its version and everything that its
// result depends on, as JSON. Thread counts and paths do not belong in it.
func Key(stage string, version int, inputs any) (string, error) {
	data, err := json.Marshal(struct {
		Stage   string
		Version int
		Inputs  any
	}{stage, version, inputs})
	if err != nil {
		return "", fmt.Errorf("cache key of %s: %w", stage, err)
	}
	sum := sha256.Sum256(data)
	return stage + "-" + hex.EncodeToString(sum[:16]), nil
}

// stamp is written beside an entry, after it is complete.
type stamp struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// File returns the path of the entry of that key, and whether it was found. If
// it is not there, or no longer what it was, make writes it to the path it is
// given.
func (c *Cache) File(ctx context.Context, key string, make func(path string) error) (path string, found bool, err error) {
	path = filepath.Join(c.dir, key)
	ok, err := c.trusted(ctx, path)
	if err != nil || ok {
		return path, ok, err
	}
	part := path + ".part"
	if err := make(part); err != nil {
		return "", false, errors.Join(err, ignoreMissing(os.Remove(part)))
	}
	s, err := hashFile(ctx, part)
	if err != nil {
		return "", false, err
	}
	if err := os.Rename(part, path); err != nil {
		return "", false, fmt.Errorf("cache: %w", err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return "", false, fmt.Errorf("cache: %w", err)
	}
	return path, false, WriteFile(path+".json", data, 0o600)
}

// trusted reports whether the entry at path is there and hashes to its stamp;
// anything else is removed.
func (c *Cache) trusted(ctx context.Context, path string) (bool, error) {
	data, err := os.ReadFile(path + ".json")
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cache: %w", err)
	}
	var want stamp
	if json.Unmarshal(data, &want) == nil {
		got, err := hashFile(ctx, path)
		if err == nil && got == want {
			return true, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	err = errors.Join(ignoreMissing(os.Remove(path+".json")), ignoreMissing(os.Remove(path)))
	return false, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func hashFile(ctx context.Context, path string) (stamp, error) {
	f, err := os.Open(path)
	if err != nil {
		return stamp{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, contextReader{ctx, f})
	if err != nil {
		return stamp{}, fmt.Errorf("hash %s: %w", filepath.Base(path), err)
	}
	return stamp{hex.EncodeToString(h.Sum(nil)), n}, nil
}

// contextReader makes a long copy end when ctx does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// WriteFile writes data to a temporary file beside path and renames it, so
// that path is never half written.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".part*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(f.Name())))
	}
	return nil
}

// fileDigest is the SHA-256 of a file, in hexadecimal.
func fileDigest(ctx context.Context, path string) (string, error) {
	s, err := hashFile(ctx, path)
	return s.SHA256, err
}
