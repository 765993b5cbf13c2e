// Hugging Face folders: config.json, weights as safetensors or torch files,
// single or in shards, and the tokenizer beside them.

package convert

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slmc/formats"
	"slmc/formats/pytorch"
	"slmc/formats/safetensors"
	"slmc/model"
)

var (
	safetensorsNames = []string{"model.safetensors", "model.safetensors.index.json"}
	pytorchNames     = []string{"pytorch_model.bin", "pytorch_model.bin.index.json"}
)

// hfFile finds one of the names in a folder with a config.json, or accepts a
// file with one of the suffixes.
func hfFile(names []string, suffixes ...string) func(path string, folder bool) string {
	return func(path string, folder bool) string {
		if folder {
			for _, name := range names {
				if exists(path, name) && exists(path, "config.json") {
					return filepath.Join(path, name)
				}
			}
			return ""
		}
		for _, s := range suffixes {
			if strings.HasSuffix(path, s) {
				return path
			}
		}
		return ""
	}
}

// findPyTorch takes a file for a torch checkpoint of Hugging Face's when a
// config.json stands beside it and it begins as torch's files do.
func findPyTorch(path string, folder bool) string {
	if folder || strings.HasSuffix(path, ".bin.index.json") {
		return hfFile(pytorchNames, ".bin.index.json")(path, folder)
	}
	ext := filepath.Ext(path)
	if slices.Contains([]string{".bin", ".pt", ".pth"}, ext) && isTorch(path) && exists(filepath.Dir(path), "config.json") {
		return path
	}
	return ""
}

// isTorch reports whether a file begins like a zip or like a pickle of
// protocol 2 and above.
func isTorch(path string) bool {
	head := firstBytes(path, 4)
	return strings.HasPrefix(head, "PK") || strings.HasPrefix(head, "\x80") && len(head) == 4 && head[1] >= 2 && head[1] <= 5
}

func openHF(_ context.Context, path string, _ Options) (*opened, error) {
	dir := filepath.Dir(path)
	configPath := filepath.Join(dir, "config.json")
	config, err := readConfig(configPath)
	if err != nil {
		return nil, err
	}
	op := &opened{config: config, names: hfNames, file: filepath.Base(path), files: []string{configPath}}
	if op.tok, err = findTokenizer(dir); err != nil {
		return nil, err
	}
	op.src, err = openWeights(path)
	if strings.HasSuffix(path, ".index.json") {
		op.files = append(op.files, path)
	}
	return op, err
}

// readConfig parses a JSON description.
func readConfig(path string) (*model.Config, error) {
	f, err := formats.OpenFile(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, &formats.Error{File: path, Offset: -1, Kind: formats.ErrUnsupported, Msg: "a checkpoint needs its description", Err: err}
		}
		return nil, err
	}
	c, err := model.ParseConfig(f.Name(), f.Section(0, f.Size()), f.Size())
	return c, errors.Join(err, f.Close())
}

// openWeights opens a weights file or an index.
func openWeights(path string) (formats.Source, error) {
	switch {
	case strings.HasSuffix(path, ".safetensors.index.json"):
		return safetensors.OpenIndex(path)
	case strings.HasSuffix(path, ".index.json"):
		return pytorch.OpenIndex(path)
	case strings.HasSuffix(path, ".safetensors"):
		return safetensors.Open(path)
	}
	return openSection(path, "")
}

// openSection opens the tensors under a key of a torch checkpoint.
func openSection(path, key string) (formats.Source, error) {
	f, err := pytorch.Open(path)
	if err != nil {
		return nil, err
	}
	s, err := f.Section(key)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}
