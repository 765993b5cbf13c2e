package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

	"slmc/formats"
)

// Bounds on a config.json. Published ones have some 5 KB and nest 4 deep; the
// largest, with a table of token names in id2label, stay below 1 MB.
const (
	maxConfigBytes = 16 << 20
	maxConfigDepth = 32
)

// Config is a model's description in the words of Hugging Face's config.json.
// Checkpoints that describe themselves otherwise (GGUF, Meta's params.json,
// llama2.c) are put into these words first, so that an architecture is read
// once.
//
// Getters record which keys were read: a key that nothing reads and that is not
// on the list of harmless ones may change the numbers, and is refused by name.
// Getters also collect errors instead of returning them; Err returns them all.
// A key whose value is null counts as absent.
type Config struct {
	file   string
	path   string // prefix of keys in errors: "rope_scaling."
	values map[string]any
	read   map[string]bool
	errs   *[]error // shared with sub-objects
}

// NewConfig returns a Config over values as encoding/json with UseNumber gives
// them; file is what errors call it.
func NewConfig(file string, values map[string]any) *Config {
	return &Config{file: file, values: values, read: map[string]bool{}, errs: new([]error)}
}

// ParseConfig reads a config.json of size bytes. It is refused as corrupt when
// it is longer than 16 MiB, nested deeper than 32, names a key twice or is no
// JSON object.
func ParseConfig(file string, r io.Reader, size int64) (*Config, error) {
	if size > maxConfigBytes {
		return nil, formats.Corrupt(file, "", -1, "%d bytes, at most %d are read", size, maxConfigBytes)
	}
	j := formats.NewJSON(io.LimitReader(r, maxConfigBytes+1), maxConfigDepth)
	v, err := j.Value()
	if err == nil {
		err = j.End()
	}
	if err != nil {
		return nil, &formats.Error{File: file, Offset: j.Offset(), Kind: formats.ErrCorrupt, Msg: "not a valid config", Err: err}
	}
	values, ok := v.(map[string]any)
	if !ok {
		return nil, formats.Corrupt(file, "", 0, "found %s, wanted an object", brief(v))
	}
	return NewConfig(file, values), nil
}

// File returns the name that errors use.
func (c *Config) File() string { return c.file }

// Err returns every problem that getters met, joined, or nil.
func (c *Config) Err() error { return errors.Join(*c.errs...) }

// Fail records a problem with a key.
func (c *Config) Fail(kind error, key, format string, args ...any) {
	*c.errs = append(*c.errs, &formats.Error{File: c.file, Offset: -1, Kind: kind,
		Msg: fmt.Sprintf("key %q ", c.path+key) + fmt.Sprintf(format, args...)})
}

// Has reports whether key is present and not null.
func (c *Config) Has(key string) bool {
	return c.get(key) != nil
}

// Null reports whether key is present and null.
func (c *Config) Null(key string) bool {
	v, ok := c.values[key]
	return ok && v == nil
}

func (c *Config) get(key string) any {
	c.read[key] = true
	return c.values[key]
}

// require returns a value or records that the key is missing.
func (c *Config) require(key string) any {
	v := c.get(key)
	if v == nil {
		c.Fail(formats.ErrCorrupt, key, "is missing")
	}
	return v
}

// Int returns a required integer in [1, limit].
func (c *Config) Int(key string, limit int) int { return c.integer(key, c.require(key), 0, limit) }

// IntOr is Int with a default for an absent key.
func (c *Config) IntOr(key string, def, limit int) int {
	return c.integer(key, c.get(key), def, limit)
}

func (c *Config) integer(key string, v any, def, limit int) int {
	if v == nil {
		return def
	}
	n, ok := asInt(v)
	switch {
	case !ok:
		c.Fail(formats.ErrCorrupt, key, "is %s, wanted an integer", brief(v))
	case n < 1 || n > limit:
		c.Fail(formats.ErrCorrupt, key, "is %d, wanted 1 to %d", n, limit)
	default:
		return n
	}
	return 0
}

// asInt accepts an integer however it is written: 8192, 8192.0 or 8.192e3.
func asInt(v any) (int, bool) {
	num, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	if n, err := strconv.Atoi(num.String()); err == nil {
		return n, true
	}
	f, err := num.Float64()
	if err != nil || f < -1<<53 || f > 1<<53 || f != float64(int(f)) {
		return 0, false
	}
	return int(f), true
}

// Float returns a required, positive number.
func (c *Config) Float(key string) float64 { return c.number(key, c.require(key), 0) }

// FloatOr is Float with a default for an absent key.
func (c *Config) FloatOr(key string, def float64) float64 { return c.number(key, c.get(key), def) }

// FloatNull is FloatOr where null does not stand for the default but for 0,
// "none".
func (c *Config) FloatNull(key string, def float64) float64 {
	if c.Null(key) {
		def = 0
	}
	return c.FloatOr(key, def)
}

func (c *Config) number(key string, v any, def float64) float64 {
	if v == nil {
		return def
	}
	num, ok := v.(json.Number)
	if !ok {
		c.Fail(formats.ErrCorrupt, key, "is %s, wanted a number", brief(v))
		return 0
	}
	f, err := num.Float64()
	if err != nil || !(f > 0) || f > math.MaxFloat32 {
		c.Fail(formats.ErrCorrupt, key, "is %s, wanted a positive number", brief(v))
		return 0
	}
	return f
}

// BoolOr returns a bool.
func (c *Config) BoolOr(key string, def bool) bool {
	v := c.get(key)
	if v == nil {
		return def
	}
	b, ok := v.(bool)
	if !ok {
		c.Fail(formats.ErrCorrupt, key, "is %s, wanted true or false", brief(v))
	}
	return b
}

// TextOr returns a string.
func (c *Config) TextOr(key, def string) string {
	v := c.get(key)
	if v == nil {
		return def
	}
	s, ok := v.(string)
	if !ok {
		c.Fail(formats.ErrCorrupt, key, "is %s, wanted a string", brief(v))
	}
	return s
}

// Texts returns an array of strings, nil when the key is absent.
func (c *Config) Texts(key string) []string {
	v := c.get(key)
	if v == nil {
		return nil
	}
	list, ok := v.([]any)
	out := make([]string, 0, len(list))
	for _, item := range list {
		s, isText := item.(string)
		ok = ok && isText
		out = append(out, s)
	}
	if !ok {
		c.Fail(formats.ErrCorrupt, key, "is %s, wanted an array of strings", brief(v))
		return nil
	}
	return out
}

// IDs returns token ids: an integer, or an array of them; nil when absent.
func (c *Config) IDs(key string) []int {
	v := c.get(key)
	if v == nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var out []int
	for _, item := range list {
		n, ok := asInt(item)
		if !ok || n < 0 || n > math.MaxInt32 {
			c.Fail(formats.ErrCorrupt, key, "is %s, wanted a token id or an array of them", brief(v))
			return nil
		}
		out = append(out, n)
	}
	return out
}

// Floats returns an array of positive numbers, nil when absent.
func (c *Config) Floats(key string) []float64 {
	v := c.get(key)
	if v == nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		c.Fail(formats.ErrCorrupt, key, "is %s, wanted an array of numbers", brief(v))
	}
	out := make([]float64, len(list))
	for i, item := range list {
		out[i] = c.number(fmt.Sprintf("%s[%d]", key, i), item, 0)
	}
	return out
}

// Sub returns an object, nil when the key is absent.
func (c *Config) Sub(key string) *Config {
	v := c.get(key)
	if v == nil {
		return nil
	}
	values, ok := v.(map[string]any)
	if !ok {
		c.Fail(formats.ErrCorrupt, key, "is %s, wanted an object", brief(v))
		return nil
	}
	return &Config{file: c.file, path: c.path + key + ".", values: values, read: map[string]bool{}, errs: c.errs}
}

// List returns an array of objects, nil when key is no array or absent.
func (c *Config) List(key string) []*Config {
	list, ok := c.get(key).([]any)
	if !ok {
		return nil
	}
	out := []*Config{}
	for i, item := range list {
		values, ok := item.(map[string]any)
		if !ok {
			c.Fail(formats.ErrCorrupt, key, "holds %s, wanted objects", brief(item))
			return nil
		}
		out = append(out, &Config{file: c.file, path: fmt.Sprintf("%s%s[%d].", c.path, key, i), values: values, read: map[string]bool{}, errs: c.errs})
	}
	return out
}

// Only refuses any value of key but absence, null and the given ones, which
// are strings, bools or ints: the key changes the numbers, and only these
// values are implemented.
func (c *Config) Only(key string, implemented ...any) {
	v := c.get(key)
	if v == nil {
		return
	}
	var names []string
	for _, want := range implemented {
		if same(v, want) {
			return
		}
		names = append(names, brief(want))
	}
	if len(names) == 0 {
		c.Fail(formats.ErrUnsupported, key, "is %s: not implemented", brief(v))
		return
	}
	c.Fail(formats.ErrUnsupported, key, "is %s: only %s is implemented", brief(v), strings.Join(names, ", "))
}

func same(v, want any) bool {
	switch want := want.(type) {
	case string:
		return v == want
	case bool:
		return v == want
	case int:
		n, ok := asInt(v)
		return ok && n == want
	}
	return false
}

// harmless lists keys of config.json that do not change what a forward pass
// computes: training, generation and bookkeeping.
var harmless = strings.Fields(`
	_name_or_path architectures auto_map model_type transformers_version transformers.js_config
	torch_dtype dtype unsloth_version unsloth_fixed is_llama_config model_name
	_attn_implementation _attn_implementation_autoset attn_implementation _flash_attn_2_enabled
	use_cache cache_implementation initializer_range attention_dropout hidden_dropout resid_pdrop embd_pdrop
	classifier_dropout pretraining_tp gradient_checkpointing neftune_noise_alpha use_bfloat16
	bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id
	forced_bos_token_id forced_eos_token_id tokenizer_class prefix
	return_dict output_hidden_states output_attentions output_scores return_dict_in_generate torchscript tf_legacy_loss
	finetuning_task id2label label2id num_labels problem_type task_specific_params
	max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
	temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
	encoder_no_repeat_ngram_size bad_words_ids num_return_sequences remove_invalid_values
	exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
	chunk_size_feed_forward tie_encoder_decoder cross_attention_hidden_size`)

// Ignore marks a key as read: it is known not to change the numbers here.
func (c *Config) Ignore(key string) { c.read[key] = true }

// Unread returns the keys that nothing has read, that are not null and not on
// the list of harmless ones, sorted.
func (c *Config) Unread() []string {
	var out []string
	for key, v := range c.values {
		if v != nil && !c.read[key] && !slices.Contains(harmless, key) {
			out = append(out, key)
		}
	}
	sort.Strings(out)
	return out
}

// RefuseUnread records every unread key that is not in ignore.
func (c *Config) RefuseUnread(ignore []string) {
	if len(*c.errs) > 0 {
		return // reading may have ended early: a key that was not read says nothing
	}
	for _, key := range c.Unread() {
		if !slices.Contains(ignore, c.path+key) {
			c.Fail(formats.ErrUnsupported, key, "is unknown, its value is %s: it may change the numbers", brief(c.values[key]))
		}
	}
}

// brief shows a value in an error message.
func brief(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%T", v)
	}
	if len(b) > 80 {
		b = append(b[:80:80], "..."...)
	}
	return string(b)
}
