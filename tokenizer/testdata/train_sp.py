# Trains the small SentencePiece models of the tests on texts.jsonl (standard
# input) and writes their vectors with the library: sp_NAME.model and
# sp_NAME.vectors.jsonl.
import json
import sys
import tempfile

import sentencepiece

texts = [json.loads(line) for line in sys.stdin]
corpus = [t.replace("\n", " ").replace("\0", " ") for t in texts if t.strip()] * 4
common = dict(sentence_iterator=None, hard_vocab_limit=False, minloglevel=2, num_threads=1)

rules = tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False)
for a, b in [("\u00e9", "e"), ("e\u0301", "e"), ("\u2026", "..."), ("A", "a"), ("\u3000", " "), ("\u00a0", " "), ("\u4eca\u5929", "\u4eca\u65e5"), ("\u200b", "")]:
    rules.write(" ".join("%04X" % ord(c) for c in a) + "\t" + " ".join("%04X" % ord(c) for c in b) + "\n")
rules.close()

models = {
    "bpe": dict(model_type="bpe", vocab_size=520, byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
                user_defined_symbols=["<|user|>", "the", "\u2581\u2581"], control_symbols=["<|sys|>"]),
    "bpe_unk": dict(model_type="bpe", vocab_size=520, normalization_rule_name="identity", character_coverage=0.98, bos_id=-1),
    "unigram": dict(model_type="unigram", vocab_size=520, byte_fallback=True, character_coverage=0.98, normalization_rule_tsv=rules.name, user_defined_symbols=["<|user|>", "lights"]),
    "unigram_unk": dict(model_type="unigram", vocab_size=520, normalization_rule_name="identity", character_coverage=0.98, add_dummy_prefix=False,
                        remove_extra_whitespaces=False, unk_surface="?"),
    "unigram_suffix": dict(model_type="unigram", vocab_size=520, character_coverage=0.98, normalization_rule_name="identity", treat_whitespace_as_suffix=True, bos_id=-1, eos_id=-1),
    "bpe_spaces": dict(model_type="bpe", vocab_size=520, character_coverage=0.98, normalization_rule_name="identity", split_by_whitespace=False, remove_extra_whitespaces=False, byte_fallback=False),
}
for name, o in models.items():
    opts = dict(common)
    opts.update(o)
    opts["sentence_iterator"] = iter(corpus)
    with open("sp_%s.model" % name, "wb") as f:
        sentencepiece.SentencePieceTrainer.train(model_writer=f, **opts)
    m = sentencepiece.SentencePieceProcessor(model_file="sp_%s.model" % name)
    with open("sp_%s.vectors.jsonl" % name, "w") as f:
        for i, t in enumerate(texts):
            if i > 60 and i % 3:
                continue
            ids = m.encode(t, add_bos=m.bos_id() >= 0)
            f.write(json.dumps({"text": t, "ids": ids, "decoded": m.decode(ids)}) + "\n")
