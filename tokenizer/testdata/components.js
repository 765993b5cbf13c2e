// Writes components.jsonl: small tokenizers made for the tests, one for each
// component of the tokenizer.json format, and what the reference (npm package
// tokenizers 0.23.2) makes of some texts: node components.js < texts.jsonl
const {Tokenizer} = require('tokenizers');
const texts = require('fs').readFileSync(0, 'utf8').split('\n').filter(Boolean).map(l => JSON.parse(l));
const picked = texts.filter((t, i) => i < 61);

const letters = [...'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,!?\'"-_<>|/\n\t', '▁', 'é', '中', 'あ', 'Ġ', 'Ċ', 'Ã', '©'];
const pairs = ['t h', 'th e', 'i n', 'a n', 'an d', 'o n', 'e r', '▁ t', '▁t h', '▁th e', 'Ġ t', 'Ġt h', 'Ġth e', '▁ ▁', '▁▁ ▁▁', '. .', '1 2', '12 3', 'a a', 'aa aa', 'a b', 'ab ab', 'Ã ©', "' s", '\n \n'];
function bpe(extra) {
  const vocab = {};
  const add = s => { if (!(s in vocab)) vocab[s] = Object.keys(vocab).length; };
  add('<unk>'); letters.forEach(add);
  for (let b = 0; b < 256; b++) add('<0x' + b.toString(16).toUpperCase().padStart(2, '0') + '>');
  pairs.forEach(p => add(p.split(' ').length === 2 ? p.replace(' ', '') : p));
  return Object.assign({type: 'BPE', dropout: null, unk_token: '<unk>', continuing_subword_prefix: null, end_of_word_suffix: null,
    fuse_unk: false, byte_fallback: false, ignore_merges: false, vocab, merges: pairs.map(p => p.split(' '))}, extra);
}
const noBytes = (m) => { for (const k of Object.keys(m.vocab)) if (/^<0x/.test(k)) delete m.vocab[k]; Object.keys(m.vocab).forEach((k, i) => m.vocab[k] = i); return m; };
function suffixed() {
  const vocab = {'<unk>': 0}; const add = s => { if (!(s in vocab)) vocab[s] = Object.keys(vocab).length; };
  letters.forEach(l => { add(l); add(l + '</w>'); });
  ['th', 'the</w>', 'in</w>', 'an'].forEach(add);
  return {type: 'BPE', unk_token: '<unk>', end_of_word_suffix: '</w>', vocab, merges: ['t h', 'th e</w>', 'i n</w>', 'a n']};
}
function prefixed() {
  const vocab = {'<unk>': 0}; const add = s => { if (!(s in vocab)) vocab[s] = Object.keys(vocab).length; };
  letters.forEach(l => { add(l); add('##' + l); });
  ['th', 'the', '##in'].forEach(add);
  return {type: 'BPE', unk_token: '<unk>', continuing_subword_prefix: '##', vocab, merges: ['t ##h', 'th ##e', '##i ##n']};
}
function wordpiece(extra) {
  const vocab = {}; const add = s => { if (!(s in vocab)) vocab[s] = Object.keys(vocab).length; };
  ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'].forEach(add);
  letters.forEach(l => { add(l); add('##' + l); });
  ['the', 'what', 'is', 'it', 'weather', '##er', '##ing', 'set', 'turn', 'cafe', '12', '##34', 'in', 'un', 'aa', '##aa'].forEach(add);
  return Object.assign({type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 100, vocab}, extra);
}
function unigram(extra) {
  const vocab = [['<unk>', 0], ['<s>', 0]];
  letters.filter(l => l !== 'Q').forEach((l, i) => vocab.push([l, -5 - i / 50]));
  [['▁the', -3], ['the', -3.5], ['▁t', -4], ['he', -4.2], ['in', -4.1], ['▁▁', -4], ['ing', -4], ['ab', -6], ['aa', -7.5], ['aaaa', -9], ['12', -5.5], ['weather', -6]].forEach(p => vocab.push(p));
  return Object.assign({type: 'Unigram', unk_id: 0, vocab}, extra);
}
const wordlevel = {type: 'WordLevel', unk_token: '[UNK]', vocab: {'[UNK]': 0, the: 1, what: 2, is: 3, a: 4, ',': 5, '.': 6, in: 7, paris: 8, '1': 9}};
const tok = (id, content, o) => Object.assign({id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true}, o);
const split = (pattern, behavior, invert) => ({type: 'Split', pattern, behavior, invert: !!invert});
const meta = (prepend_scheme, s) => ({type: 'Metaspace', replacement: '▁', prepend_scheme, split: s});
const spmDec = {type: 'Sequence', decoders: [{type: 'Replace', pattern: {String: '▁'}, content: ' '}, {type: 'ByteFallback'}, {type: 'Fuse'}, {type: 'Strip', content: ' ', start: 1, stop: 0}]};
const bl = {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true};
const replace = {type: 'Replace', pattern: {String: ' '}, content: '▁'};
const cases = {
  'plain bpe': {model: bpe()},
  'fuse unk': {model: noBytes(bpe({fuse_unk: true})), normalizer: replace},
  'no fuse unk': {model: noBytes(bpe({fuse_unk: false})), normalizer: replace},
  'byte fallback': {model: bpe({byte_fallback: true, fuse_unk: true}), normalizer: replace, decoder: spmDec},
  'no unk': {model: noBytes(bpe({unk_token: null})), normalizer: replace},
  'ignore merges': {model: bpe({ignore_merges: true, byte_fallback: true}), pre_tokenizer: {type: 'WhitespaceSplit'}},
  'byte level': {model: bpe({unk_token: null}), pre_tokenizer: bl, decoder: {type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true}, post_processor: bl},
  'byte level prefix': {model: bpe(), pre_tokenizer: Object.assign({}, bl, {add_prefix_space: true}), decoder: bl},
  'byte level split after': {model: bpe(), pre_tokenizer: {type: 'Sequence', pretokenizers: [bl, split({String: 'th'}, 'Isolated')]}, decoder: bl},
  'byte level normalizer': {model: bpe(), normalizer: {type: 'ByteLevel'}, decoder: bl},
  'word suffix': {model: suffixed(), pre_tokenizer: {type: 'WhitespaceSplit'}, decoder: {type: 'BPEDecoder', suffix: '</w>'}},
  'subword prefix': {model: prefixed(), pre_tokenizer: {type: 'Whitespace'}, decoder: {type: 'WordPiece', prefix: '##', cleanup: false}},
  'metaspace always': {model: bpe({byte_fallback: true}), pre_tokenizer: meta('always', true), decoder: meta('always', true)},
  'metaspace first': {model: bpe({byte_fallback: true}), pre_tokenizer: meta('first', true), decoder: meta('first', true), added_tokens: [tok(500, '<|end|>')]},
  'metaspace never': {model: bpe({byte_fallback: true}), pre_tokenizer: meta('never', false), decoder: meta('never', false)},
  'digits': {model: bpe(), pre_tokenizer: {type: 'Digits', individual_digits: false}},
  'digits each': {model: bpe(), pre_tokenizer: {type: 'Sequence', pretokenizers: [{type: 'Digits', individual_digits: true}, {type: 'Punctuation', behavior: 'Contiguous'}]}},
  'punctuation removed': {model: bpe(), pre_tokenizer: {type: 'Punctuation', behavior: 'Removed'}},
  'delimiter': {model: bpe(), pre_tokenizer: {type: 'CharDelimiterSplit', delimiter: 'a'}},
  'bert': {model: wordpiece(), normalizer: {type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true}, pre_tokenizer: {type: 'BertPreTokenizer'},
    post_processor: {type: 'TemplateProcessing', single: [{SpecialToken: {id: '[CLS]', type_id: 0}}, {Sequence: {id: 'A', type_id: 0}}, {SpecialToken: {id: '[SEP]', type_id: 0}}], pair: [{Sequence: {id: 'A', type_id: 0}}, {Sequence: {id: 'B', type_id: 1}}], special_tokens: {'[CLS]': {id: '[CLS]', ids: [2], tokens: ['[CLS]']}, '[SEP]': {id: '[SEP]', ids: [3], tokens: ['[SEP]']}}},
    decoder: {type: 'WordPiece', prefix: '##', cleanup: true}, added_tokens: [tok(0, '[PAD]'), tok(1, '[UNK]'), tok(2, '[CLS]'), tok(3, '[SEP]'), tok(4, '[MASK]', {lstrip: true})]},
  'bert cased': {model: wordpiece({max_input_chars_per_word: 8}), normalizer: {type: 'BertNormalizer', clean_text: false, handle_chinese_chars: false, strip_accents: true, lowercase: false}, pre_tokenizer: {type: 'Whitespace'},
    post_processor: {type: 'BertProcessing', sep: ['[SEP]', 3], cls: ['[CLS]', 2]}},
  'roberta': {model: bpe(), pre_tokenizer: bl, post_processor: {type: 'RobertaProcessing', sep: ['a', 1], cls: ['b', 2], trim_offsets: true, add_prefix_space: true}, decoder: bl},
  'word level': {model: wordlevel, normalizer: {type: 'Lowercase'}, pre_tokenizer: {type: 'Whitespace'}},
  'unigram': {model: unigram(), pre_tokenizer: meta('always', true), decoder: meta('always', true)},
  'unigram bytes': {model: (() => { const m = unigram({byte_fallback: true}); for (let b = 0; b < 256; b++) m.vocab.push(['<0x' + b.toString(16).toUpperCase().padStart(2, '0') + '>', -20]); return m; })(), normalizer: {type: 'Sequence', normalizers: [{type: 'Prepend', prepend: '▁'}, replace]}, decoder: spmDec},
  'nfc': {model: bpe({byte_fallback: true}), normalizer: {type: 'NFC'}},
  'nfkd accents': {model: bpe({byte_fallback: true}), normalizer: {type: 'Sequence', normalizers: [{type: 'NFKD'}, {type: 'StripAccents'}, {type: 'Lowercase'}, {type: 'Strip', strip_left: true, strip_right: true}]}},
  'nfd strip left': {model: bpe({byte_fallback: true}), normalizer: {type: 'Sequence', normalizers: [{type: 'NFD'}, {type: 'Strip', strip_left: true, strip_right: false}]}},
  'nfkc nmt': {model: bpe({byte_fallback: true}), normalizer: {type: 'Sequence', normalizers: [{type: 'Nmt'}, {type: 'NFKC'}]}},
  'replace regex': {model: bpe({byte_fallback: true}), normalizer: {type: 'Replace', pattern: {Regex: '\\s{2,}|(?i)the\\b'}, content: ' '}},
  'post sequence': {model: bpe(), post_processor: {type: 'Sequence', processors: [bl, {type: 'TemplateProcessing', single: [{SpecialToken: {id: 'x', type_id: 0}}, {Sequence: {id: 'A', type_id: 0}}], pair: [{Sequence: {id: 'A', type_id: 0}}, {Sequence: {id: 'B', type_id: 1}}], special_tokens: {x: {id: 'x', ids: [5, 6], tokens: ['d', 'e']}}}]}},
  'added tokens': {model: bpe({byte_fallback: true}), normalizer: {type: 'Lowercase'}, decoder: {type: 'Fuse'}, added_tokens: [tok(500, '<|user|>', {rstrip: true}), tok(501, '<|end|>', {lstrip: true, special: false}), tok(502, 'THE', {normalized: true, special: false, single_word: true}), tok(503, 'aaa', {single_word: true}), tok(504, '</s>', {lstrip: true, rstrip: true})]},
  'added normalized': {model: bpe({byte_fallback: true}), normalizer: {type: 'Sequence', normalizers: [{type: 'Prepend', prepend: '▁'}, replace]}, decoder: spmDec, added_tokens: [tok(500, '<|user|>', {normalized: true}), tok(501, ' the', {normalized: true, special: false})]},
  'strip end': {model: bpe({byte_fallback: true}), decoder: {type: 'Sequence', decoders: [{type: 'Fuse'}, {type: 'Strip', content: 'e', start: 0, stop: 1}]}},
  'ctc': {model: bpe({byte_fallback: true}), decoder: {type: 'CTC', pad_token: 'a', word_delimiter_token: '|', cleanup: true}},
};
for (const b of ['Isolated', 'Removed', 'Contiguous', 'MergedWithPrevious', 'MergedWithNext']) {
  for (const inv of [false, true]) cases[`split ${b} ${inv}`] = {model: bpe(), pre_tokenizer: split({Regex: '\\d+|[aeiou]'}, b, inv)};
  cases[`split string ${b}`] = {model: bpe(), pre_tokenizer: split({String: ' '}, b)};
}
const regexes = {
  cl100k: "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
  o200k: "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  tekken: "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  llama3: "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  qwen2: "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  qwen35: "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  words: '\\w+|[^\\w\\s]+', lines: '^.*$', bounds: '\\b\\w', digits3: '\\d{1,3}(?=(?:\\d{3})*\\b)',
};
for (const [k, r] of Object.entries(regexes)) cases['regex ' + k] = {model: bpe({byte_fallback: true}), pre_tokenizer: split({Regex: r}, 'Isolated')};

(async () => {
  for (const [name, c] of Object.entries(cases)) {
    const json = Object.assign({version: '1.0', truncation: null, padding: null, added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null}, c);
    // New ids of added tokens are those after the vocabulary.
    const vocab = json.model.vocab; let next = Array.isArray(vocab) ? vocab.length : Object.keys(vocab).length;
    json.added_tokens = json.added_tokens.map(a => Object.assign({}, a, {id: Array.isArray(vocab) || !(a.content in vocab) ? next++ : vocab[a.content]}));
    const t = Tokenizer.fromString(JSON.stringify(json));
    const vectors = [];
    for (const text of picked) {
      const ids = (await t.encode(text, null, {addSpecialTokens: true})).getIds();
      // The reference panics where a decoder meets no token or an empty one.
      if (ids.length === 0 && json.decoder) continue;
      let decoded = null;
      try { decoded = await t.decode(ids, true); } catch (e) { decoded = null; }
      vectors.push({text, ids, decoded});
    }
    console.log(JSON.stringify({name, tokenizer: json, vectors}));
  }
})();
