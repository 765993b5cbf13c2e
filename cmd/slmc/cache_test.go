package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slmc/internal/pipeline"
)

// A cache entry that is not what the build wrote is made again, never used.
func TestCacheIsNotTrusted(t *testing.T) {
	want := assistantBundle(t)
	dir := t.TempDir()
	cache, out := filepath.Join(dir, "cache"), filepath.Join(dir, "made.slmb")
	args := []string{"build", repo + "/testdata/assistant-tiny", "-o", out, "--cache", cache, "--json"}
	ok(t, args...)
	if st, err := os.Stat(cache); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the cache folder has mode %v (%v), wanted 0700", st.Mode(), err)
	}
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	tampered := 0
	for _, e := range entries {
		if e.Name() == "lock" {
			continue
		}
		path := filepath.Join(cache, e.Name())
		good := read(t, path)
		if st, err := e.Info(); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v), wanted 0600", e.Name(), st.Mode(), err)
		}
		flipped := bytes.Clone(good)
		flipped[len(flipped)/2] ^= 1
		for how, bad := range map[string][]byte{"a flipped bit": flipped, "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "empty": {}} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			got := ok(t, args...)
			if !bytes.Equal(read(t, out), want) {
				t.Errorf("%s: %s: the bundle has other bytes", e.Name(), how)
			}
			// More bytes after a stamp's JSON do no harm, whatever they are.
			if strings.Contains(got, `"cached":["pack","golden"]`) && !strings.HasSuffix(e.Name(), ".json") {
				t.Errorf("%s: %s: it was used: %s", e.Name(), how, got)
			}
			tampered++
		}
	}
	if tampered != 16 {
		t.Errorf("%d changes tried, wanted 4 of each of 4 files", tampered)
	}
}

// What no build has used for a month goes; what one used yesterday stays, however
// old it is.
func TestCacheForgets(t *testing.T) {
	dir := t.TempDir()
	cache := filepath.Join(dir, "cache")
	build := func() string {
		return ok(t, "build", repo+"/testdata/assistant-tiny", "-o", filepath.Join(dir, "made.slmb"), "--cache", cache, "--json")
	}
	age := func(days int) {
		entries, err := os.ReadDir(cache)
		if err != nil {
			t.Fatal(err)
		}
		then := time.Now().AddDate(0, 0, -days)
		for _, e := range entries {
			if err := os.Chtimes(filepath.Join(cache, e.Name()), then, then); err != nil {
				t.Fatal(err)
			}
		}
	}
	build()
	for range 2 {
		age(20)
		if got := build(); !strings.Contains(got, `"cached":["pack","golden"]`) {
			t.Errorf("after 20 days: %s", got)
		}
	}
	state := filepath.Join(cache, "qat-0123456789abcdef0123456789abcdef.state")
	if err := os.WriteFile(state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	age(40)
	if got := build(); !strings.Contains(got, `"cached":[]`) {
		t.Errorf("after 40 days: %s", got)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("the state of an unfinished stage is still there after 40 days")
	}
}

// The cache belongs to one build at a time, waiting can be ended, and a folder
// with other things in it is left alone.
func TestCacheFolder(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	first, err := pipeline.OpenCache(ctx, filepath.Join(dir, "a"), log)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 1200*time.Millisecond)
	defer cancel()
	if _, err := pipeline.OpenCache(short, filepath.Join(dir, "a"), log); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("a locked cache was opened: %v", err)
	}
	if !strings.Contains(said.String(), "waiting for another build") {
		t.Errorf("it waited without a word: %q", &said)
	}
	opened := make(chan error, 1)
	go func() {
		c, err := pipeline.OpenCache(ctx, filepath.Join(dir, "a"), log)
		if err == nil {
			c.Close()
		}
		opened <- err
	}()
	first.Close()
	if err := <-opened; err != nil {
		t.Errorf("after the first was closed: %v", err)
	}

	other := filepath.Join(dir, "downloads")
	mine := filepath.Join(other, "film.part")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mine, []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	n, text := code("build", repo+"/testdata/assistant-tiny", "-o", filepath.Join(dir, "x.slmb"), "--cache", other)
	if n != exitUsage || !strings.Contains(text, "holds other files") {
		t.Errorf("exit %d: %s", n, text)
	}
	if st, err := os.Stat(other); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("the folder was changed: %v (%v)", st.Mode(), err)
	}
	if string(read(t, mine)) != "half" {
		t.Error("somebody's file was changed")
	}
}
