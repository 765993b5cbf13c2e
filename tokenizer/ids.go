package tokenizer

// VocabSize is one more than the highest id; ids may have holes below it.
func (t *Tokenizer) VocabSize() int { return t.spec.vocab.size() }

// BOS, EOS, Unk and Pad return the id of the special token, or -1 if the
// tokenizer has none or its files do not say.
func (t *Tokenizer) BOS() int32 { return t.spec.bos }

// EOS returns the id of the end-of-sequence token or -1.
func (t *Tokenizer) EOS() int32 { return t.spec.eos }

// Unk returns the id of the unknown token or -1.
func (t *Tokenizer) Unk() int32 { return t.spec.unk }

// Pad returns the id of the padding token or -1.
func (t *Tokenizer) Pad() int32 { return t.spec.pad }

// EndIDs returns the ids that end a generation, ascending: EOS and the tokens
// of chat formats that end a turn.
func (t *Tokenizer) EndIDs() []int32 { return append([]int32(nil), t.spec.eog...) }

// AddsBOS reports whether Encode with addSpecial starts with BOS.
func (t *Tokenizer) AddsBOS() bool {
	return t.spec.bos >= 0 && len(t.spec.prefix) > 0 && t.spec.prefix[0] == t.spec.bos
}

// ChatTemplate is the Jinja source of the chat template that the tokenizer's
// file held, or "".
func (t *Tokenizer) ChatTemplate() string { return t.spec.template }

// Token returns the token with this id as its file writes it.
func (t *Tokenizer) Token(id int32) (string, bool) {
	if !t.spec.vocab.has(id) {
		return "", false
	}
	return t.spec.vocab.text(id), true
}

// ID returns the id of a token as its file writes it.
func (t *Tokenizer) ID(token string) (int32, bool) {
	id := t.spec.vocab.lookup(token)
	return id, id >= 0
}

// AddedTokens lists the tokens that are found in text before the model, in the
// order of the file.
func (t *Tokenizer) AddedTokens() []AddedToken { return append([]AddedToken(nil), t.spec.added...) }

// IsSpecial reports whether Decode with skipSpecial leaves out id.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.special[id] }
