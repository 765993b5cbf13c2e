package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"slmc/formats"
	"slmc/internal/pipeline"
	"slmc/tokenizer"
)

func tokenizeCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "tokenize",
		Usage: "turn JSONL texts on standard input into token ids",
		Description: "Reads lines {\"text\": ...} and writes one line {\"ids\": [...], \"decoded\": ...} for each.\n" +
			"Special tokens are added as the tokenizer's post-processor does; decoded skips them.\n" +
			"Takes a SOURCE, a bundle, a tokenizer.json, a tokenizer.model, or a GGUF file with\n" +
			"a vocabulary alone.",
		Flags:  join([]cli.Flag{jsonFlag()}, sourceFlags()),
		Action: runTokenize,
	}, `echo '{"text":"hello"}' | slmc tokenize testdata/assistant-tiny`, "SOURCE_OR_BUNDLE_OR_TOKENIZER")
}

func runTokenize(c *cli.Context) error {
	tok, done, err := openTokenizer(c, c.Args().First())
	if err != nil {
		return err
	}
	// A read from a terminal can't be interrupted; the command can.
	end := make(chan error, 1)
	go func() { end <- tokenizeLines(c.App.Reader, c.App.Writer, tok) }()
	select {
	case err = <-end:
		return errors.Join(err, done())
	case <-c.Context.Done():
		return c.Context.Err()
	}
}

// openTokenizer finds the tokenizer of a model, or a bare one.
func openTokenizer(c *cli.Context, path string) (*tokenizer.Tokenizer, func() error, error) {
	st, err := os.Stat(path)
	bare := err == nil && st.Mode().IsRegular() && (filepath.Ext(path) == ".json" || filepath.Ext(path) == ".model" || filepath.Ext(path) == ".gguf")
	if bare {
		tok, err := pipeline.OpenTokenizer(path)
		return tok, func() error { return nil }, err
	}
	o, err := pipeline.Open(c.Context, path, env(c))
	if err != nil {
		return nil, nil, err
	}
	tok, err := o.Tokenizer()
	if err == nil && tok == nil {
		err = formats.Unsupported(path, "", -1, "the model has no tokenizer")
	}
	if err != nil {
		return nil, nil, errors.Join(err, o.Close())
	}
	return tok, o.Close, nil
}

// tokenizeLines answers each line of r with one line; a bad line ends it with
// an error that names the line.
func tokenizeLines(r io.Reader, w io.Writer, tok *tokenizer.Tokenizer) error {
	in := bufio.NewReaderSize(r, 1<<16)
	out := bufio.NewWriter(w)
	defer out.Flush()
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for n := 1; ; n++ {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		var row struct {
			Text *string `json:"text"`
		}
		if err := json.Unmarshal(line, &row); err != nil {
			return usageError(fmt.Sprintf("line %d: not a JSON object with \"text\": %v", n, err))
		}
		if row.Text == nil {
			return usageError(fmt.Sprintf("line %d: no field \"text\"", n))
		}
		ids, err := tok.Encode(*row.Text, true)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if ids == nil {
			ids = []int32{}
		}
		err = enc.Encode(struct {
			IDs     []int32 `json:"ids"`
			Decoded string  `json:"decoded"`
		}{ids, tok.Decode(ids, true)})
		if err != nil {
			return err
		}
	}
}

// maxLine bounds one JSONL line.
const maxLine = 64 << 20

// readLine returns the next line without its newline; io.EOF after the last.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, usageError(fmt.Sprintf("longer than %d bytes", maxLine))
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
