package formats

import (
	"encoding/json"
	"fmt"
)

// Value reads any value: string, bool, json.Number, nil, []any or
// map[string]any. The rules of the walker hold in it; the caller bounds the
// length of the document.
func (j *JSON) Value() (any, error) {
	t, err := j.token()
	if err != nil {
		return nil, err
	}
	return j.value(t)
}

func (j *JSON) value(t json.Token) (any, error) {
	switch t {
	case json.Delim('{'):
		out := map[string]any{}
		err := j.object(func(key string) error {
			v, err := j.Value()
			out[key] = v
			return err
		})
		return out, err
	case json.Delim('['):
		if j.depth++; j.depth > j.max {
			return nil, fmt.Errorf("nested deeper than %d", j.max)
		}
		out := []any{}
		for {
			t, err := j.token()
			if err != nil {
				return nil, err
			}
			if t == json.Delim(']') {
				j.depth--
				return out, nil
			}
			v, err := j.value(t)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
	}
	return t, nil
}
