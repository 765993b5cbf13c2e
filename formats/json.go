package formats

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/text/encoding"
	"golang.org/x/text/transform"
)

// maxToken bounds one string or number of a JSON document: encoding/json
// holds a token whole, and no name in a checkpoint comes near it.
const maxToken = 1 << 20

// JSON walks a JSON document token by token, so that memory follows what the
// caller keeps and not the length of the document. It is stricter than
// encoding/json: a duplicate key, invalid UTF-8, nesting beyond a bound and a
// token over 1 MiB are errors. Errors carry no file name: the caller adds it.
type JSON struct {
	dec   *json.Decoder
	src   *tokenReader
	depth int
	max   int
}

// tokenReader fails when a token needs more than maxToken bytes.
type tokenReader struct {
	r    io.Reader
	left int
}

var errLongToken = fmt.Errorf("a string or number is longer than %d bytes", maxToken)

func (t *tokenReader) Read(p []byte) (int, error) {
	if t.left <= 0 {
		return 0, errLongToken
	}
	n, err := t.r.Read(p[:min(len(p), t.left)])
	t.left -= n
	return n, err
}

// NewJSON returns a walker over r that refuses nesting deeper than maxDepth.
func NewJSON(r io.Reader, maxDepth int) *JSON {
	src := &tokenReader{r: transform.NewReader(r, encoding.UTF8Validator)}
	dec := json.NewDecoder(src)
	dec.UseNumber()
	return &JSON{dec: dec, src: src, max: maxDepth}
}

// Offset returns the bytes consumed so far.
func (j *JSON) Offset() int64 { return j.dec.InputOffset() }

func (j *JSON) token() (json.Token, error) {
	j.src.left = maxToken
	t, err := j.dec.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}

// Object reads an object and calls each after every key; each must consume
// exactly the key's value.
func (j *JSON) Object(each func(key string) error) error {
	t, err := j.token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return fmt.Errorf("found %s, wanted an object", describe(t))
	}
	return j.object(each)
}

func (j *JSON) object(each func(key string) error) error {
	if j.depth++; j.depth > j.max {
		return fmt.Errorf("nested deeper than %d", j.max)
	}
	seen := map[string]bool{}
	for {
		t, err := j.token()
		if err != nil {
			return err
		}
		if t == json.Delim('}') {
			j.depth--
			return nil
		}
		key := t.(string) // the decoder lets nothing else stand for a key
		if seen[key] {
			return fmt.Errorf("key %q appears twice", key)
		}
		seen[key] = true
		if err := each(key); err != nil {
			return err
		}
	}
}

// Ints reads an array of at most limit integers.
func (j *JSON) Ints(limit int) ([]int64, error) {
	t, err := j.token()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('[') {
		return nil, fmt.Errorf("found %s, wanted an array of integers", describe(t))
	}
	var out []int64
	for {
		t, err := j.token()
		if err != nil {
			return nil, err
		}
		if t == json.Delim(']') {
			return out, nil
		}
		num, ok := t.(json.Number)
		if !ok {
			return nil, fmt.Errorf("found %s, wanted an integer", describe(t))
		}
		v, err := strconv.ParseInt(num.String(), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("number %.40q is no 64-bit integer", num.String())
		}
		if len(out) == limit {
			return nil, fmt.Errorf("array longer than %d", limit)
		}
		out = append(out, v)
	}
}

// Text reads a string.
func (j *JSON) Text() (string, error) {
	t, err := j.token()
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("found %s, wanted a string", describe(t))
	}
	return s, nil
}

// Skip reads any value and keeps nothing of it; the rules still hold in it.
func (j *JSON) Skip() error {
	t, err := j.token()
	if err != nil {
		return err
	}
	return j.skip(t)
}

func (j *JSON) skip(t json.Token) error {
	switch t {
	case json.Delim('{'):
		return j.object(func(string) error { return j.Skip() })
	case json.Delim('['):
		if j.depth++; j.depth > j.max {
			return fmt.Errorf("nested deeper than %d", j.max)
		}
		for {
			t, err := j.token()
			if err != nil {
				return err
			}
			if t == json.Delim(']') {
				j.depth--
				return nil
			}
			if err := j.skip(t); err != nil {
				return err
			}
		}
	}
	return nil
}

// End checks that only white space follows, at most 1 MiB of it.
func (j *JSON) End() error {
	j.src.left = maxToken
	t, err := j.dec.Token()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("found %s after the end of the document", describe(t))
	}
	return err
}

func describe(t json.Token) string {
	switch v := t.(type) {
	case json.Delim:
		return fmt.Sprintf("%q", v.String())
	case string:
		return fmt.Sprintf("string %.40q", v)
	case json.Number:
		return fmt.Sprintf("number %.40s", v)
	case nil:
		return "null"
	}
	return fmt.Sprint(t)
}
