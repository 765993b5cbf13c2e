// Writes gguf.vectors.jsonl with llama.cpp's own tokenizer (npm package
// node-llama-cpp 3.22.1): node gguf_vectors.mjs DIR < texts.jsonl
import {getLlama} from 'node-llama-cpp';
import fs from 'fs';
const llama = await getLlama({gpu: false, build: 'never', logLevel: 'disabled'});
const texts = fs.readFileSync(0, 'utf8').split('\n').filter(Boolean).map(l => JSON.parse(l)).slice(0, 58).filter(t => t && !t.includes('\0'));
texts.push('<|im_start|>user\n hi <think> there<|im_end|>\n', '<think><|im_start|>');
const out = [];
for (const f of fs.readdirSync(process.argv[2]).sort()) {
  const model = await llama.loadModel({modelPath: process.argv[2] + '/' + f, vocabOnly: true});
  out.push(JSON.stringify({pre: f.replace('.gguf', ''), bos: model.tokens.shouldPrependBosToken,
    ids: texts.map(t => [...model.tokenize(t, true)]), plain: texts.map(t => [...model.tokenize(t, false)])}));
  await model.dispose();
}
fs.writeFileSync('gguf.vectors.jsonl', JSON.stringify({texts}) + '\n' + out.join('\n') + '\n');
process.exit(0);
