package tokenizer

// Special tokens of GGUF vocabularies. llama.cpp reads much off the text of a token,
// because files do not say it (src/llama-vocab.cpp, load).

// ggufEnd are the tokens by whose text llama.cpp ends a generation.
var ggufEnd = map[string]bool{
	"<|eot_id|>": true, "<|im_end|>": true, "<|end|>": true, "<|return|>": true, "<|call|>": true, "<|flush|>": true,
	"<|calls|>": true, "<end_of_turn>": true, "<|endoftext|>": true, "</s>": true, "<|eom_id|>": true, "<EOT>": true,
	"_<EOT>": true, "[EOT]": true, "[EOS]": true, "<|end_of_text|>": true, "<end_of_utterance>": true, "<eos>": true,
	"<turn|>": true, "<|tool_response>": true, "<｜end▁of▁sentence｜>": true, "[e~[": true,
}

// ggufFIM are the tokens of fill-in-the-middle that llama.cpp takes for
// control tokens by their text; those marked true also end a generation.
var ggufFIM = map[string]bool{
	"<|fim_prefix|>": false, "<fim-prefix>": false, "<fim_prefix>": false, "<｜fim▁begin｜>": false, "<PRE>": false, "▁<PRE>": false,
	"<|code_prefix|>": false, "<|prefix|>": false, "<|fim_suffix|>": false, "<fim-suffix>": false, "<fim_suffix>": false,
	"<｜fim▁hole｜>": false, "<SUF>": false, "▁<SUF>": false, "<|code_suffix|>": false, "<|suffix|>": false,
	"<|fim_middle|>": false, "<fim-middle>": false, "<fim_middle>": false, "<｜fim▁end｜>": false, "<MID>": false, "▁<MID>": false,
	"<|code_middle|>": false, "<|middle|>": false, "<|fim_pad|>": true, "<fim-pad>": true, "<fim_pad>": true, "<PAD>": true,
	"[PAD]": true, "<|fim_repo|>": true, "<|repo_name|>": true, "<fim-repo>": true, "<REPO>": true, "<reponame>": true, "<|file_sep|>": true,
}

// override sets the kinds that llama.cpp reads off a token's text.
func (g *GGUFVocab) override(kinds []byte) {
	for i, t := range g.Tokens {
		_, fim := ggufFIM[t]
		switch {
		case ggufEnd[t] || fim:
			kinds[i] = kindControl
		case t == "<|channel|>" || t == "<|message|>" || t == "<|start|>" || t == "<|constrain|>":
			kinds[i] = kindUser
		}
	}
}

// specials lists the added tokens and the ids that end a generation.
func (g *GGUFVocab) specials(s *spec) {
	end := map[int32]bool{}
	found := map[string]int32{}
	for i := range g.Tokens {
		id := int32(i)
		k := s.vocab.kind[id] & kindMask
		text := s.vocab.text(id)
		if ggufEnd[g.Tokens[i]] || ggufFIM[g.Tokens[i]] {
			end[id] = true
			found[g.Tokens[i]] = id
		}
		if k == kindControl || k == kindUser || k == kindUnknown {
			s.added = append(s.added, AddedToken{ID: id, Content: text, Special: k != kindUser})
		}
	}
	for _, id := range []int{int(s.eos), g.EOT, g.EOM} {
		if id >= 0 && id < len(g.Tokens) {
			end[int32(id)] = true
		}
	}
	has := func(names ...string) bool {
		for _, n := range names {
			if _, ok := found[n]; !ok {
				return false
			}
		}
		return true
	}
	// In these two families <|end|> ends a part of the answer, not the answer,
	// and </s> is plain text.
	call := has("<|call|>") || has("<|calls|>")
	if call && (has("<|return|>") || has("<|flush|>")) && has("<|end|>") {
		delete(end, found["<|end|>"])
	}
	if has("<|tool_response>", "</s>") {
		delete(end, found["</s>"])
	}
	for id := range end {
		s.eog = append(s.eog, id)
	}
}
