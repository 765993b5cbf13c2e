# Writes the GGUF vocabularies of the tests, made for this project, as
# vocabulary-only files for llama.cpp (DIR/PRE.gguf, one for each
# tokenizer.ggml.pre of the arguments) and as plain data (gguf_vocab.json):
# python3 gguf_vocab.py DIR PRE... < texts.jsonl
# The BPE merges are learned without any pre-tokenizer, so that they cross the
# places where a pre-tokenizer cuts and show whether it did.
import collections
import json
import struct
import sys


def s(b):
    b = b.encode() if isinstance(b, str) else b
    return struct.pack("<Q", len(b)) + b


def string(k, v):
    return s(k) + struct.pack("<I", 8) + s(v)


def u32(k, v):
    return s(k) + struct.pack("<II", 4, v)


def array(k, t, items):
    out = s(k) + struct.pack("<IIQ", 9, t, len(items))
    if t == 8:
        return out + b"".join(s(x) for x in items)
    return out + struct.pack("<%d%s" % (len(items), "f" if t == 6 else "i"), *items)


def write(path, kvs):
    kvs = [string("general.architecture", "llama")] + kvs
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(kvs)) + b"".join(kvs))


def byte_chars():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    out, n = {}, 0
    for b in range(256):
        if b in keep:
            out[b] = chr(b)
        else:
            out[b] = chr(256 + n)
            n += 1
    return out


def learn(texts, count):
    chars = byte_chars()
    words = [[chars[b] for b in t.encode()] for t in texts]
    merges = []
    for _ in range(count):
        pairs = collections.Counter(p for w in words for p in zip(w, w[1:]))
        pair = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(pair)
        for w in words:
            i = 0
            while i + 1 < len(w):
                if (w[i], w[i + 1]) == pair:
                    w[i:i + 2] = [pair[0] + pair[1]]
                i += 1
    tokens = [chars[b] for b in range(256)]
    tokens += [t for t in dict.fromkeys(a + b for a, b in merges) if t not in tokens]
    return tokens, [a + " " + b for a, b in merges]


texts = [json.loads(line) for line in sys.stdin]
tokens, merges = learn([t for t in texts if len(t) < 200], 500)
tokens += ["<|im_start|>", "<|im_end|>", "<think>"]
n = len(tokens)
types = [1] * (n - 3) + [3, 3, 4]
bpe = dict(model="gpt2", tokens=tokens, types=types, merges=merges, bos=n - 3, eos=n - 2)
for pre in sys.argv[2:]:
    write("%s/%s.gguf" % (sys.argv[1], pre), [
        string("tokenizer.ggml.model", "gpt2"), string("tokenizer.ggml.pre", pre),
        array("tokenizer.ggml.tokens", 8, tokens), array("tokenizer.ggml.token_type", 5, types),
        array("tokenizer.ggml.merges", 8, merges), u32("tokenizer.ggml.bos_token_id", n - 3),
        u32("tokenizer.ggml.eos_token_id", n - 2)])

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
for c in "abcdefghijklmnopqrstuvwxyz0123456789.,!?;:-_<>|/'\"":
    words += ["\u2581" + c, c]
words += ["\u2581" + w for w in ["the", "what", "is", "weather", "set", "turn", "cafe", "\u4eca", "\u65e5"]] + ["ing", "er", "34", "aa", "ab"]
kinds = [3, 2, 3, 3, 3] + [1] * (len(words) - 5)
write("%s/WPM.gguf" % sys.argv[1], [
    string("tokenizer.ggml.model", "bert"), array("tokenizer.ggml.tokens", 8, words), array("tokenizer.ggml.token_type", 5, kinds),
    u32("tokenizer.ggml.bos_token_id", 2), u32("tokenizer.ggml.seperator_token_id", 3),
    u32("tokenizer.ggml.unknown_token_id", 1), u32("tokenizer.ggml.padding_token_id", 0)])
wpm = dict(model="bert", tokens=words, types=kinds, bos=2, sep=3, unk=1, pad=0)

import sentencepiece
m = sentencepiece.SentencePieceProcessor(model_file="../../testdata/assistant-tiny/tokenizer.model")
pieces = [m.id_to_piece(i) for i in range(m.vocab_size())]
scores = [m.get_score(i) for i in range(len(pieces))]
kinds = [2 if m.is_unknown(i) else 3 if m.is_control(i) or p.startswith("<|") else 6 if m.is_byte(i) else 1 for i, p in enumerate(pieces)]
write("%s/SPM.gguf" % sys.argv[1], [
    string("tokenizer.ggml.model", "llama"), array("tokenizer.ggml.tokens", 8, pieces), array("tokenizer.ggml.scores", 6, scores),
    array("tokenizer.ggml.token_type", 5, kinds), u32("tokenizer.ggml.bos_token_id", 1), u32("tokenizer.ggml.eos_token_id", 5)])
spm = dict(model="llama", tokens=pieces, scores=scores, types=kinds, bos=1, eos=5)
with open("gguf_vocab.json", "w") as f:
    json.dump(dict(BPE=bpe, WPM=wpm, SPM=spm), f, separators=(",", ":"))
