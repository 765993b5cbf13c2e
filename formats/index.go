package formats

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// Bounds on an index file. The largest published checkpoints name some 50,000
// tensors in some 200 shards, in under 6 MB.
const (
	maxIndexBytes = 16 << 20
	maxIndexDepth = 32
	maxShards     = 4096
)

// ReadIndex reads a Hugging Face shard index (model.safetensors.index.json,
// pytorch_model.bin.index.json) of size bytes and returns its weight_map:
// tensor name to the plain name of the file that holds it. A file name with a
// separator, a drive or a dot folder is ErrCorrupt: nothing in a checkpoint
// may point outside its folder.
func ReadIndex(name string, r io.Reader, size int64) (map[string]string, error) {
	if size > maxIndexBytes {
		return nil, Corrupt(name, "", 0, "index of %d bytes, at most %d are read", size, maxIndexBytes)
	}
	var weights map[string]string
	j := NewJSON(io.LimitReader(r, maxIndexBytes), maxIndexDepth)
	err := j.Object(func(key string) error {
		if key != "weight_map" {
			return j.Skip()
		}
		weights = map[string]string{}
		return j.Object(func(tensor string) error {
			file, err := j.Text()
			if err == nil {
				err = PlainName(file)
			}
			weights[tensor] = file
			return err
		})
	})
	if err == nil {
		err = j.End()
	}
	if err != nil {
		return nil, &Error{File: name, Offset: j.Offset(), Kind: ErrCorrupt, Msg: "shard index", Err: err}
	}
	if len(weights) == 0 {
		return nil, Corrupt(name, "", -1, "no weight_map, or an empty one")
	}
	return weights, nil
}

// PlainName reports why name is not the name of a file in the same folder on
// every system, or nil.
func PlainName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\\:\x00") || !filepath.IsLocal(name) {
		return fmt.Errorf("%.100q is not a plain file name", name)
	}
	return nil
}

// Sharded is a Source over the files that a shard index names.
type Sharded struct {
	tensors []TensorInfo
	owner   map[string]Source
	shards  []Source
}

// OpenIndex reads the index at path and opens, with open, every shard that it
// names, in the order of their names. The index and the shards must agree: a
// tensor that only one side knows is ErrCorrupt. Symbolic links are followed,
// since the Hub's cache is made of them.
func OpenIndex(path string, open func(path string) (Source, error)) (*Sharded, error) {
	f, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	weights, err := ReadIndex(f.Name(), f.Section(0, f.Size()), f.Size())
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	s := &Sharded{owner: make(map[string]Source, len(weights))}
	if err := s.openShards(path, weights, open); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Sharded) openShards(path string, weights map[string]string, open func(path string) (Source, error)) error {
	index := filepath.Base(path)
	var files []string
	known := map[string]bool{}
	for _, file := range weights {
		if !known[file] {
			known[file] = true
			files = append(files, file)
		}
	}
	if len(files) > maxShards {
		return Corrupt(index, "", -1, "weight_map names %d files, at most %d are opened", len(files), maxShards)
	}
	slices.Sort(files)
	for _, file := range files {
		src, err := open(filepath.Join(filepath.Dir(path), file))
		if err != nil {
			return fmt.Errorf("%s: shard %s: %w", index, file, err)
		}
		s.shards = append(s.shards, src)
		for _, t := range src.Tensors() {
			switch want, ok := weights[t.Name]; {
			case !ok:
				return Corrupt(index, t.Name, -1, "%s holds it, but weight_map does not name it", file)
			case want != file:
				return Corrupt(index, t.Name, -1, "%s holds it, but weight_map places it in %s", file, want)
			}
			s.owner[t.Name] = src
			s.tensors = append(s.tensors, t)
		}
	}
	var lost []string
	for name := range weights {
		if s.owner[name] == nil {
			lost = append(lost, name)
		}
	}
	if len(lost) > 0 {
		sort.Strings(lost)
		return Corrupt(index, lost[0], -1, "weight_map places it in %s, which does not hold it (%d such tensors)", weights[lost[0]], len(lost))
	}
	return nil
}

// Tensors lists the tensors of all shards, shard by shard.
func (s *Sharded) Tensors() []TensorInfo { return s.tensors }

// ReadF32 reads from the shard that holds the tensor.
func (s *Sharded) ReadF32(name string, off int, dst []float32) error {
	src := s.owner[name]
	if src == nil {
		return Corrupt(s.tensors[0].File, name, -1, "no such tensor in the %d shards", len(s.shards))
	}
	return src.ReadF32(name, off, dst)
}

// Close closes every shard.
func (s *Sharded) Close() error {
	var err error
	for _, src := range s.shards {
		err = errors.Join(err, src.Close())
	}
	return err
}
