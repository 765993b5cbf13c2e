package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Encode returns the canonical JSON of m, at most MaxManifest bytes.
func (m *Manifest) Encode() ([]byte, error) {
	c := *m
	c.Graph = *m.Graph.Clone()
	fillNil(&c.Graph.Ropes)
	fillNil(&c.Graph.Blocks)
	fillNil(&c.Graph.Weights)
	for i := range c.Graph.Ropes {
		fillNil(&c.Graph.Ropes[i].InvFreq)
	}
	for i := range c.Graph.Weights {
		fillNil(&c.Graph.Weights[i].Shape)
	}
	fillNil(&c.Weights)
	fillNil(&c.Kernels)
	fillNil(&c.Tokenizer.EOS)
	fillNil(&c.Tokenizer.Stop)
	fillNil(&c.Provenance.Sources)
	fillNil(&c.Provenance.Seeds)
	fillNil(&c.Provenance.Reports)
	fillNil(&c.Sections)
	if c.Provenance.Recipe == nil {
		c.Provenance.Recipe = json.RawMessage("{}")
	}
	c.Provenance.Reports = append([]StageReport{}, c.Provenance.Reports...)
	for i := range c.Provenance.Reports {
		if r := &c.Provenance.Reports[i]; r.Report == nil {
			r.Report = json.RawMessage("{}")
		}
	}
	text, err := canonical(c)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if len(text) > MaxManifest {
		return nil, fmt.Errorf("manifest of %d bytes, at most %d are allowed", len(text), MaxManifest)
	}
	if at, err := checkCanonical(text); err != nil {
		return nil, fmt.Errorf("manifest at byte %d: %w", at, err)
	}
	return text, nil
}

// fillNil turns a nil slice into an empty one, since JSON tells them apart.
func fillNil[T any](s *[]T) {
	if *s == nil {
		*s = []T{}
	}
}

// DecodeManifest reads canonical JSON. With newer, the bundle's minor version
// is above this package's: then fields that this version does not know are
// ignored. Otherwise, the text must be exactly what Encode returns, so that a
// field that is unknown, missing, or spelled in another case is refused. The
// error carries no file name; offset is where the text is wrong, 0 when it is
// wrong as a whole. What the fields say is not checked here.
func DecodeManifest(text []byte, newer bool) (m *Manifest, offset int, err error) {
	if len(text) > MaxManifest {
		return nil, 0, fmt.Errorf("manifest of %d bytes, at most %d are read", len(text), MaxManifest)
	}
	m = new(Manifest)
	if offset, err = decodeCanonical(text, m, newer); err != nil {
		return nil, offset, err
	}
	again, err := m.Encode()
	if err != nil {
		return nil, 0, err
	}
	if offset, err = sameText(text, again, newer); err != nil {
		return nil, offset, err
	}
	return m, 0, nil
}

// decodeCanonical checks that text is canonical and decodes it into v.
func decodeCanonical(text []byte, v any, newer bool) (int, error) {
	if at, err := checkCanonical(text); err != nil {
		return at, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if !newer {
		dec.DisallowUnknownFields()
	}
	if err := dec.Decode(v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return int(wrong.Offset), fmt.Errorf("field %q holds a JSON %s", wrong.Field, wrong.Value)
		}
		return 0, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return 0, nil
}

// sameText compares a text with the encoding of what was decoded from it.
func sameText(text, again []byte, newer bool) (int, error) {
	if bytes.Equal(text, again) {
		return 0, nil
	}
	if newer {
		all, err := decodeTree(text)
		if err != nil {
			return 0, err
		}
		known, err := decodeTree(again)
		if err != nil {
			return 0, err
		}
		return 0, subset("manifest", known, all)
	}
	at := 0
	for at < len(text) && at < len(again) && text[at] == again[at] {
		at++
	}
	return at, fmt.Errorf("found %q, this version writes %q", around(text, at), around(again, at))
}

// around returns what stands at a byte offset of text and a little before.
func around(text []byte, at int) string {
	return string(text[max(at-20, 0):min(at+20, len(text))])
}

// subset reports where known, an encoding of the fields that this version
// knows, has a value that all has not.
func subset(path string, known, all any) error {
	switch k := known.(type) {
	case map[string]any:
		a, ok := all.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: wanted an object", path)
		}
		for name, v := range k {
			w, ok := a[name]
			if !ok {
				return fmt.Errorf("%s: no field %q", path, name)
			}
			if err := subset(path+"."+name, v, w); err != nil {
				return err
			}
		}
		return nil
	case []any:
		a, ok := all.([]any)
		if !ok || len(a) != len(k) {
			return fmt.Errorf("%s: wanted an array of %d", path, len(k))
		}
		for i := range k {
			if err := subset(fmt.Sprintf("%s[%d]", path, i), k[i], a[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if !reflect.DeepEqual(known, all) {
		return fmt.Errorf("%s: found %v, this version writes %v", path, all, known)
	}
	return nil
}
