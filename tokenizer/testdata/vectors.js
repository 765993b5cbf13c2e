// Writes the vectors of a tokenizer.json for the texts on standard input (one
// JSON string a line), with the reference implementation from npm
// (tokenizers 0.23.2): node vectors.js TOKENIZER.json < texts.jsonl
const {Tokenizer} = require('tokenizers');
const lines = require('fs').readFileSync(0, 'utf8').split('\n').filter(Boolean);
(async () => {
  const t = Tokenizer.fromFile(process.argv[2]);
  for (const l of lines) {
    const text = JSON.parse(l);
    const ids = (await t.encode(text, null, {addSpecialTokens: true})).getIds();
    const plain = (await t.encode(text, null, {addSpecialTokens: false})).getIds();
    const decoded = await t.decode(ids, true);
    const decodedAll = await t.decode(ids, false);
    console.log(JSON.stringify({text, ids, plain, decoded, decoded_all: decodedAll}));
  }
})();
