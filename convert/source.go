// Package convert opens a checkpoint of any known form as a model, and turns a
// model into the packed weights of a bundle.
//
// Opening reads names, shapes and configs; weights are read later, in pieces.
// A checkpoint's own description becomes a model.Config, its own tensor names
// and row orders are translated here, and from then on all forms are alike.
package convert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"slmc/formats"
	"slmc/model"
)

// Options are what a caller may say about a source. The zero value is good.
type Options struct {
	// HFHome is the folder of Hugging Face's cache, in which a source such as
	// "org/name" is looked up when no such path exists; "" for no lookup.
	HFHome string
	// IgnoreKeys are unknown config keys that the user vouches for.
	IgnoreKeys []string
	// Context replaces the model's context length when it is not 0: Meta's
	// checkpoints do not say theirs.
	Context int
}

// Checkpoint is an opened source.
type Checkpoint struct {
	Model     *model.Model
	Form      string // a name of Forms
	Tokenizer Tokenizer
	Types     []TypeCount // element types of the tensors that the model uses
	Files     []string    // every file that was read or will be, as paths
	Ignored   []string    // tensors that are present and not needed, such as buffers
	src       formats.Source
}

// TypeCount says how many tensors are stored in an element type.
type TypeCount struct {
	Type    string
	Tensors int
	Bytes   int64
}

// Close closes the files. The model's values can't be read after it.
func (c *Checkpoint) Close() error { return c.src.Close() }

// opened is a source before its tensors are matched with a graph.
type opened struct {
	src    formats.Source
	config *model.Config
	names  naming
	// file is what errors about the checkpoint as a whole name; dir is where
	// it and its shards lie.
	file, dir string
	files     []string // paths beside those of the shards
	tok       Tokenizer
}

// form is one kind of checkpoint.
type form struct {
	name string // for listings
	what string // what a path must hold, for error messages
	// find returns the path of the decisive file under a folder or the file
	// itself, or "" when the path is not of this form.
	find func(path string, folder bool) string
	open func(ctx context.Context, path string, o Options) (*opened, error)
}

// forms lists the kinds of checkpoints in the order in which they are tried.
func forms() []form {
	return []form{
		{"safetensors", "config.json with model.safetensors or its index", hfFile(safetensorsNames, ".safetensors", ".safetensors.index.json"), openHF},
		{"pytorch", "config.json with pytorch_model.bin or its index", findPyTorch, openHF},
		{"meta", "consolidated.00.pth with params.json", findMeta, openMeta},
		{"llama2.c trainer", "ckpt.pt with model_args", findTrainer, openTrainer},
		{"llama2.c", "model.bin, or another .bin, of llama2.c", findLlama2c, openLlama2c},
		{"gguf", "a .gguf file", findGGUF, openGGUF},
	}
}

// Forms lists the names of the kinds of checkpoints.
func Forms() []string {
	var out []string
	for _, f := range forms() {
		out = append(out, f.name)
	}
	return out
}

// Open opens the checkpoint at path: a folder, a file, or a name of the Hub
// that Options.HFHome's cache holds. An unknown form, architecture or config
// key is ErrUnsupported; a missing, surplus or misshapen tensor is ErrCorrupt.
func Open(ctx context.Context, path string, o Options) (*Checkpoint, error) {
	path, err := resolve(path, o)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	for _, f := range forms() {
		at := f.find(path, st.IsDir())
		if at == "" {
			continue
		}
		op, err := f.open(ctx, at, o)
		if err != nil {
			return nil, err
		}
		op.dir = filepath.Dir(at)
		c, err := bind(ctx, op, o)
		if err != nil {
			return nil, errors.Join(err, op.src.Close())
		}
		c.Form = f.name
		return c, nil
	}
	var want []string
	for _, f := range forms() {
		want = append(want, f.what)
	}
	return nil, formats.Unsupported(path, "", -1, "no checkpoint of a known form; wanted %s", strings.Join(want, "; or "))
}

var hubName = regexp.MustCompile(`^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$`)

// resolve returns path, or the snapshot in the Hub's cache that it names:
// HFHome/hub/models--ORG--NAME/snapshots/REV.
func resolve(path string, o Options) (string, error) {
	_, err := os.Stat(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) || o.HFHome == "" || !hubName.MatchString(path) {
		return path, err
	}
	repo := filepath.Join(o.HFHome, "hub", "models--"+strings.ReplaceAll(path, "/", "--"))
	rev, err := revision(repo)
	if err != nil {
		return "", fmt.Errorf("%s is no path, and the cache has no such model: %w", path, err)
	}
	return filepath.Join(repo, "snapshots", rev), nil
}

// revision is what refs/main of a repository in the Hub's cache names; without
// that file, as after a download by revision, the only snapshot there is.
func revision(repo string) (string, error) {
	main := filepath.Join(repo, "refs", "main")
	ref, err := os.ReadFile(main)
	if errors.Is(err, fs.ErrNotExist) {
		snapshots, listErr := os.ReadDir(filepath.Join(repo, "snapshots"))
		switch {
		case listErr != nil || len(snapshots) == 0:
			return "", err
		case len(snapshots) > 1:
			return "", fmt.Errorf("%w, and %d snapshots to choose from", err, len(snapshots))
		}
		return snapshots[0].Name(), nil
	}
	if err != nil {
		return "", err
	}
	rev := strings.TrimSpace(string(ref))
	if err := formats.PlainName(rev); err != nil {
		return "", formats.Corrupt(main, "", 0, "revision: %v", err)
	}
	return rev, nil
}

// exists reports whether a file of that name is in the folder.
func exists(folder, name string) bool {
	_, err := os.Stat(filepath.Join(folder, name))
	return err == nil
}

// firstBytes returns the first n bytes of a file, fewer when it is shorter.
func firstBytes(path string, n int) string {
	f, err := formats.OpenFile(path)
	if err != nil {
		return ""
	}
	b := make([]byte, min(int64(n), f.Size()))
	if err := errors.Join(f.ReadFull("", 0, b), f.Close()); err != nil {
		return ""
	}
	return string(b)
}

// countTypes sums the tensors by element type, most bytes first.
func countTypes(tensors []formats.TensorInfo) []TypeCount {
	var out []TypeCount
	for _, t := range tensors {
		i := slices.IndexFunc(out, func(c TypeCount) bool { return c.Type == t.Type })
		if i < 0 {
			i, out = len(out), append(out, TypeCount{Type: t.Type})
		}
		out[i].Tensors++
		out[i].Bytes += t.Bytes
	}
	slices.SortStableFunc(out, func(a, b TypeCount) int { return int(min(max(b.Bytes-a.Bytes, -1), 1)) })
	return out
}
