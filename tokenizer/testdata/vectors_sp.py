# Writes the vectors of a tokenizer.model for the texts on standard input (one
# JSON string a line), with the SentencePiece library:
# python3 vectors_sp.py MODEL < texts.jsonl
import json
import sys

import sentencepiece

m = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
for line in sys.stdin:
    text = json.loads(line)
    ids = m.encode(text, add_bos=m.bos_id() >= 0)
    print(json.dumps({"text": text, "ids": ids, "decoded": m.decode(ids)}, ensure_ascii=True))
