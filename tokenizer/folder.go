package tokenizer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
)

// FromFolder loads the tokenizer of a checkpoint folder: tokenizer.json, or
// else tokenizer.model, with the tokenizer_config.json beside it if there is
// one. Errors: fs.ErrNotExist if the folder has neither.
func FromFolder(fsys fs.FS, dir string) (*Tokenizer, error) {
	config, err := readBounded(fsys, path.Join(dir, "tokenizer_config.json"), maxConfig)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, f := range []struct {
		name string
		max  int64
		from func(data, config []byte) (*Tokenizer, error)
	}{{"tokenizer.json", maxJSON, FromJSON}, {"tokenizer.model", maxModel, FromSentencePiece}} {
		data, err := readBounded(fsys, path.Join(dir, f.name), f.max)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return f.from(data, config)
	}
	return nil, fmt.Errorf("%s: neither tokenizer.json nor tokenizer.model: %w", dir, fs.ErrNotExist)
}

// maxConfig bounds a tokenizer_config.json, which lists added tokens again;
// Gemma 3's has 1.2 MB.
const maxConfig = 16 << 20

// readBounded reads a file of at most limit bytes.
func readBounded(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", name, ErrUnsupported, limit)
	}
	return b, nil
}
