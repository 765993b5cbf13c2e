package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/rogpeppe/go-internal/lockedfile"

	"slmc/formats"
)

// Cache keeps the files that finished stages made, under the digest of what
// went in, so that a killed build resumes. Its folder is private and locked
// while in use; an entry is hashed again before it is trusted.
type Cache struct {
	dir    string
	unlock func()
}

// OpenCache creates dir (mode 0700) if needed and locks it; it waits for
// another build to finish, and says so. A folder that holds other things is
// not taken for a cache.
func OpenCache(ctx context.Context, dir string, log *slog.Logger) (*Cache, error) {
	if err := claim(dir); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, lockName), func() {
		log.Info("waiting for another build that uses the cache folder", "cache", dir)
	})
	if err != nil {
		return nil, fmt.Errorf("cache: lock %s: %w", dir, err)
	}
	c := &Cache{dir, unlock}
	if err := c.sweep(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

const lockName = "lock"

// claim makes dir a private folder, unless it is somebody else's.
func claim(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	ours := slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == lockName })
	if len(entries) > 0 && !ours {
		return fmt.Errorf("%w: folder %s holds other files; give one that is empty or does not exist", ErrUsage, dir)
	}
	return os.Chmod(dir, 0o700)
}

// lock takes the lock file at path; wait is called when that takes a while.
func lock(ctx context.Context, path string, wait func()) (unlock func(), err error) {
	type result struct {
		unlock func()
		err    error
	}
	got := make(chan result)
	go func() {
		unlock, err := lockedfile.MutexAt(path).Lock()
		select {
		case got <- result{unlock, err}:
		case <-ctx.Done():
			if err == nil {
				unlock()
			}
		}
	}()
	patience := time.NewTimer(time.Second)
	defer patience.Stop()
	for {
		select {
		case r := <-got:
			return r.unlock, r.err
		case <-patience.C:
			wait()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Path is the place of a file in the cache that is no entry, such as the state
// of an unfinished stage.
func (c *Cache) Path(name string) string { return filepath.Join(c.dir, name) }

// Close releases the lock.
func (c *Cache) Close() { c.unlock() }

// What a killed build leaves: a part of an entry or of its stamp, or an entry
// without its stamp.
var (
	partName  = regexp.MustCompile(`^[a-z]+-[0-9a-f]{32}\.part$|^\.[a-z]+-[0-9a-f]{32}\.json\..*\.partial$`)
	entryName = regexp.MustCompile(`^[a-z]+-[0-9a-f]{32}$`)
	anyName   = regexp.MustCompile(`^[a-z]+-[0-9a-f]{32}(\.[a-z.]+)?$`)
)

// keepUnused is how long what no build has used stays.
const keepUnused = 30 * 24 * time.Hour

// sweep removes what a killed build left, and what no build has used for long:
// entries, their stamps, and the states of unfinished stages.
func (c *Cache) sweep() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(c.dir, e.Name())
		if st, err := e.Info(); err == nil && anyName.MatchString(e.Name()) && time.Since(st.ModTime()) > keepUnused {
			if err := ignoreMissing(os.Remove(path)); err != nil {
				return fmt.Errorf("cache: %w", err)
			}
			continue
		}
		if entryName.MatchString(e.Name()) {
			if _, err := os.Lstat(path + stampSuffix); err == nil {
				continue
			}
		} else if !partName.MatchString(e.Name()) {
			continue
		}
		if err := ignoreMissing(os.Remove(path)); err != nil {
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

const stampSuffix = ".json"

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
	return path, false, WriteFile(path+stampSuffix, data, 0o600)
}

// trusted reports whether the entry at path is there and hashes to its stamp;
// anything else is removed.
func (c *Cache) trusted(ctx context.Context, path string) (bool, error) {
	data, err := os.ReadFile(path + stampSuffix)
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
			now := time.Now()
			return true, errors.Join(os.Chtimes(path, now, now), os.Chtimes(path+stampSuffix, now, now))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	err = errors.Join(ignoreMissing(os.Remove(path+stampSuffix)), ignoreMissing(os.Remove(path)))
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

// WriteFile writes data so that path is never half written.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	return formats.ReplaceFile(path, mode, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// fileDigest is the SHA-256 of a file, in hexadecimal.
func fileDigest(ctx context.Context, path string) (string, error) {
	s, err := hashFile(ctx, path)
	return s.SHA256, err
}
