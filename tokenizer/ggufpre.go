package tokenizer

import (
	"sort"
	"strings"
	"unicode/utf8"
)

// What llama.cpp (src/llama-vocab.cpp) knows under tokenizer.ggml.pre: the
// regexes of each type, applied one after the other, each to the parts that
// the one before left, and flags that a file cannot state itself. llama.cpp
// runs them on std::regex over text folded to Unicode categories, so there
// \p{Lu} is any letter, \d and \b are ASCII, and no range holds white space
// beyond ASCII; they are written out here so.
type ggufPre struct {
	names        string // aliases, separated by spaces
	regexes      []string
	ignoreMerges bool
	addBOS       bool // where the file does not say
	addSEP       bool
	noBOS        bool // the default BOS id does not hold
	spaceMarks   bool // text is characters with U+2581 for spaces, not bytes
	words        bool // white space is dropped, words are characters
	custom       string
}

const (
	preLlama3 = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}` + preTail
	preQwen2  = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}` + preTail
	preGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`
	preTail   = `| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	preFold   = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`
	preUpper  = `((?=[\p{L}])([^a-z]))`
	preLower  = `((?=[\p{L}])([^A-Z]))`
	preLead   = `[^\r\n\p{L}\p{N}]?`
	preSlash  = `| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	preHan    = `[一-龥぀-ゟ゠-ヿ]+`
	preBloom  = ` ?[^(\s|.,!?…。，、।۔،)]+`
	preSplit  = `[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_` + "`" + `{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	preLM     = `[\p{L}\p{M}]`
	preDSWord = `\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ\u1F5F-\u1F7Dᾀ-ᾴᾶ-ᾼ\u1FBEῂ-ῄῆ-ῌ\u1FD0-\u1FD3\u1FD6-\u1FDBῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212A-\u212Dℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+`
)

// ggufPres lists every type; names of one entry differ in nothing that
// concerns ids. clean_up_tokenization_spaces, which llama.cpp also keeps here,
// concerns only its detokenizer for whole texts and is not applied.
var ggufPres = []ggufPre{
	{names: "default", regexes: []string{`[\p{P}\$\+<=>\^~\|]+`, preGPT2, `\p{N}+`, `[0-9][0-9][0-9]`}},
	{names: "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
		regexes: []string{preLlama3}, ignoreMerges: true, addBOS: true},
	{names: "minicpm5", regexes: []string{`\p{N}{1,3}`, preFold + `|` + preLead + `\p{L}+|\p{N}+` + preTail}, ignoreMerges: true},
	{names: "jais-2", regexes: []string{preFold + `|` + preLead + `\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|` +
		`\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}`}},
	{names: "dbrx smaug-bpe", regexes: []string{preLlama3}},
	{names: "glm4 chatglm-bpe", regexes: []string{preLlama3}, noBOS: true},
	{names: "deepseek-llm", regexes: []string{`[\r\n]`, preDSWord, `\s?(?:(?!\s)[!-/:-~！-／：-～‘-‟　-。])+`, `\s+\z`, `(?:(?!\s)[一-龥ࠀ-一가-퟿])+`, `\p{N}+`}},
	{names: "deepseek-coder", regexes: []string{`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, `(?:(?!\s)[一-龥ࠀ-一가-퟿])+`, `\p{N}`}},
	{names: "deepseek-v3 hunyuan-dense joyai-llm hy_v4", regexes: []string{`\p{N}{1,3}`, preHan, preSplit}},
	{names: "spark2_5", regexes: []string{`\p{N}{1,3}`, preHan,
		strings.Replace(preSplit, `[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|`, `[\p{P}\p{S}]+|[\r\n]|`, 1), `\p{N}`}},
	{names: "youtu", regexes: []string{`[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+`,
		preLead + preLM + `*` + preLM + `+` + preFold + `?|` + preLead + preLM + `+` + preLM + `*` + preFold + `?|\p{N}` + preSlash},
		ignoreMerges: true},
	{names: "falcon", regexes: []string{`[\p{P}\$\+<=>\^~\|` + "`" + `]+`, preGPT2, `[0-9][0-9][0-9]`}},
	{names: "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", regexes: []string{`\p{N}`, preGPT2}},
	{names: "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert mpt olmo jais trillion granite-docling exaone4",
		regexes: []string{preGPT2}},
	{names: "jina-v1-en jina-v2-code roberta-bpe", regexes: []string{preGPT2}, addSEP: true},
	{names: "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", regexes: []string{preQwen2}},
	{names: "qwen35", regexes: []string{preFold + `|` + preLead + `[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`}},
	{names: "poro-chat bloom gpt3-finnish", regexes: []string{preBloom}},
	{names: "viking", regexes: []string{preBloom, `\p{N}`}},
	{names: "tekken", regexes: []string{preLead + preUpper + `*` + preLower + `+|` + preLead + preUpper + `+` + preLower + `*|\p{N}` + preSlash},
		ignoreMerges: true, addBOS: true},
	{names: "chameleon", regexes: []string{`<sentinel:[0-9]+>`, `(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z`, `([\t\n]|    |  )`, `\p{N}`,
		`[\p{P}!-/:-@\[-` + "`" + `{-~]`, preGPT2}, addBOS: true},
	{names: "gpt-4o llama4 kanana2 talkie minimax-m2", regexes: []string{preLead + preUpper + `*` + preLower + `+` + preFold + `?|` +
		preLead + preUpper + `+` + preLower + `*` + preFold + `?|\p{N}{1,3}` + preSlash}},
	{names: "granite-embed-multi-97m", regexes: []string{preLead + `((?=[\p{L}\p{M}])([^a-z]))*((?=[\p{L}\p{M}])([^A-Z]))+` + preFold + `?|` +
		preLead + `((?=[\p{L}\p{M}])([^a-z]))+((?=[\p{L}\p{M}])([^A-Z]))*` + preFold + `?|\p{N}{1,3}` + preSlash}, ignoreMerges: true},
	{names: "tiny_aya cohere2moe", custom: "afmoedigits", regexes: []string{
		preLead + preLM + `*` + preLM + `+` + preFold + `?|` + preLead + preLM + `+` + preLM + `*` + preFold + `?|\p{N}{1,3}` + preSlash}},
	{names: "kimi-k2", custom: "kimi"},
	{names: "superbpe", regexes: []string{`\p{N}+`, `(?=([0-9]{3})+(?![0-9]))`}},
	{names: "bailingmoe bailingmoe2 llada-moe", regexes: []string{`'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|` + preLead +
		`\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`}},
	{names: "seed-coder", regexes: []string{preFold + `|` + preLead + `\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`}},
	{names: "ufakzeka", regexes: []string{preLead + `\p{L}+|\p{N}` + preTail}},
	{names: "afmoe", custom: "afmoedigits", regexes: []string{
		`[一-鿿㐀-䶿\uF900-\uFAFF぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+`, preSplit}},
	{names: "laguna", regexes: []string{`[^\n]+|[\n]+`, preQwen2}},
	{names: "exaone-moe", regexes: []string{preFold + `|` + preLead + `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+`}},
	{names: "gemma4 granite-embed-multi-311m", regexes: []string{`[^\n]+|[\n]+`}, spaceMarks: true, addBOS: true},
	{names: "sarvam-moe", regexes: []string{`[^\n]+|[\n]+`}, spaceMarks: true},
	{names: "whitespace", words: true},
}

func findGGUFPre(name string) (ggufPre, bool) {
	for _, p := range ggufPres {
		for _, n := range strings.Fields(p.names) {
			if n == name {
				return p, true
			}
		}
	}
	return ggufPre{}, false
}

// GGUFPreTypes lists the values of tokenizer.ggml.pre that FromGGUF takes.
func GGUFPreTypes() []string {
	var out []string
	for _, p := range ggufPres {
		out = append(out, strings.Fields(p.names)...)
	}
	sort.Strings(out)
	return out
}

// afmoeDigits groups a run of numbers by three from its right end. As in
// llama.cpp the first group stays joined to the text before it, which matters
// to the white space there: the next regex sees that a number follows.
func afmoeDigits(s string, add func(start, end int, match bool)) error {
	at := 0
	for i := 0; i < len(s); {
		k, _, n := classAt(s, i)
		if k != classNumber {
			i += n
			continue
		}
		end := run(s, i, classNumber)
		group := utf8.RuneCountInString(s[i:end]) % 3
		if group == 0 {
			group = 3
		}
		for i < end {
			i = scanNumber(s, i, group)
			add(at, i, true)
			at, group = i, 3
		}
	}
	if at < len(s) {
		add(at, len(s), false)
	}
	return nil
}

// isHan is llama.cpp's list of Han blocks.
func isHan(r rune) bool {
	return r >= 0x4E00 && r <= 0x9FFF || r >= 0x3400 && r <= 0x4DBF || r >= 0x20000 && r <= 0x2A6DF ||
		r >= 0x2A700 && r <= 0x2EBEF || r >= 0xF900 && r <= 0xFAFF || r >= 0x2F800 && r <= 0x2FA1F
}

// scanKimi is llama.cpp's splitter for Kimi-K2: Han runs, then words of other
// letters with a contraction, then as Llama 3.
func scanKimi(s string, i int) int {
	k, r, n := classAt(s, i)
	if isHan(r) {
		for i < len(s) {
			if _, r, n = classAt(s, i); !isHan(r) {
				break
			}
			i += n
		}
		return i
	}
	letter := func(j int) int {
		k, r, n := classAt(s, j)
		if k != classLetter || isHan(r) {
			return 0
		}
		return n
	}
	j := i
	if k != classLetter && k != classNumber && r != '\r' && r != '\n' {
		j += n
	}
	if letter(j) > 0 {
		for l := letter(j); l > 0; l = letter(j) {
			j += l
		}
		return j + contraction(s, j, true, false)
	}
	return wordScan{digits: 3}.scan(s, i)
}
