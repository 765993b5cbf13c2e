# Writes texts.jsonl: the texts of the tokenizer vectors, written for this
# project: plain language, numbers, code, scripts, white space, characters at
# the edges of Unicode classes, special tokens, and seeded random strings.
import json
import random

TEXTS = [
    "", " ", "  ", "\n", "\t", "\r\n", "a", " a", "a ", " a ", "  a  b  ",
    "what is the weather in paris tomorrow",
    "Set an alarm for 7:30 am, please.",
    "turn off the lights in the living-room and lock the door!",
    "It's what they've said: we'll see, I'd say; you're right, I'm sure. DON'T SHOUT, THEY'LL HEAR.",
    "don\u2019t \u2018quote\u2019 \u201clike this\u201d \u2014 or \u2026 that",
    "0 1 12 123 1234 12345 123456 3.14159 1,000,000 2026-11-22T14:48:11Z \u00bd \u00b2 \u2167 \u0663\u0664\u0665",
    "def add(a, b):\n    return a + b  # sum\n\n\nif __name__ == '__main__':\n\tprint(add(1, 2))\n",
    "{\"intent\": \"get_weather\", \"slots\": {\"city\": \"Oslo\", \"days\": [1, 2, 3]}}",
    "<p class=\"x\">tags &amp; entities</p><br/>",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m A\u030angstro\u0308m \ufb01ne \u1e9b\u0323",
    "\u00dcber die Br\u00fccke f\u00e4hrt Stra\u00dfenbahn Nr. 9.",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043a\u0430\u043a \u0434\u0435\u043b\u0430?",
    "\u4eca\u5929\u5929\u6c14\u600e\u4e48\u6837\uff1f\u660e\u5929\u5462\uff0c\u4f1a\u4e0b\u96e8\u5417\u3002",
    "\u660e\u65e5\u306e\u6771\u4eac\u306f\u6674\u308c\u3067\u3059\u304b\u3001\u30ab\u30bf\u30ab\u30ca\u3082\u3002",
    "\ub0b4\uc77c \uc11c\uc6b8 \ub0a0\uc528 \uc5b4\ub54c? \u1112\u1161\u11ab",
    "\u0645\u0627 \u0647\u0648 \u0627\u0644\u0637\u0642\u0633 \u063a\u062f\u0627\u061f",
    "\u0915\u0932 \u0915\u093e \u092e\u094c\u0938\u092e \u0915\u0948\u0938\u093e \u0939\u0948?",
    "\u0e1e\u0e23\u0e38\u0e48\u0e07\u0e19\u0e35\u0e49\u0e2d\u0e32\u0e01\u0e32\u0e28",
    "\U0001F600 \U0001F469\u200D\U0001F4BB \U0001F1F3\U0001F1F4 \u2764\ufe0f \U0001D54F \U0002070E",
    "zero\u200bwidth no\u00a0break \u3000wide\u2003em \u2028line \u0085nel \ufeffbom",
    "\u0000nul \u0001 \u001b[0m \u007f",
    "a\u0301\u0323\u0302b \u0301alone " + "e" + "\u0301" * 5,
    "tabs\tand  runs   of    spaces     here\n\n\n\nend\r\r\n \n \t \n",
    "\u2581 a mark \u2581\u2581twice\u2581",
    "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'VE 'M 'LL 'D 'x '\u017f",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case HTTPServer2go iPhone",
    "$%^&*()!!! ??? ... --- === /// \\\\\\ ~~~ ``` ||| ;;; ::: ,,,",
    "http://example.org/path?q=1&r=%20#frag user@example.com #tag @name",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abababababababababababababababababababababababababababab",
    " " * 70 + "x" + " " * 33,
    "\n" * 40 + "y",
    "the the the cat cat sat on on the mat. The THE tHe",
    "Pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
    "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>",
    "<|user|>what is the time<|end|><|assistant|>",
    "a<s>b</s>c <|user|> d <|end|>\n<|assistant|>e", "<|user|", "|user|>", "<|user|><|user|>",
    " <|end|> ", "<0x41><0x0A>", "<0x41", "<pad><mask>[CLS][SEP]", "x<|end|>  y",
]


def main():
    r = random.Random(20260)
    alphabets = [
        "abcdefghijklmnopqrstuvwxyz     ",
        "abcXYZ 0123456789 .,;:!?'\"-_\n\t",
        "aA1 \n\r\t'\u00e9\u0301\u4e2d\u3042\u05d0\u0664\u2028\u00a0\U0001F600\u2581",
        "<|>usera sitnd/ \n",
    ]
    texts = list(TEXTS)
    for i in range(160):
        a = alphabets[i % len(alphabets)]
        texts.append("".join(r.choice(a) for _ in range(r.randrange(1, 60))))
    for t in texts:
        print(json.dumps(t))


main()
