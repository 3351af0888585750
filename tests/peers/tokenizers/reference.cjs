// Token ids by a program that is not ours: reference.cjs native|js DIRECTORY
//
// native: Hugging Face's tokenizers, the Rust library itself. js: Hugging Face's rewrite of it in
// JavaScript. Standard input and output are as teq-tokenize's; bytes that are not UTF-8 become
// U+FFFD by the decoder of the Encoding standard.
'use strict';

const fs = require('fs');
const path = require('path');

const [kind, directory] = process.argv.slice(2);

function readJson(name) {
  const file = path.join(directory, name);
  return fs.existsSync(file) ? JSON.parse(fs.readFileSync(file, 'utf8')) : {};
}

// text -> ids
async function open() {
  if (kind === 'native') {
    const { Tokenizer } = require('tokenizers');
    const tokenizer = Tokenizer.fromFile(path.join(directory, 'tokenizer.json'));
    return async (text) => (await tokenizer.encode(text)).getIds();
  }
  const { Tokenizer } = require('@huggingface/tokenizers');
  const tokenizer = new Tokenizer(readJson('tokenizer.json'), readJson('tokenizer_config.json'));
  return (text) => tokenizer.encode(text).ids;
}

async function main() {
  const encode = await open();
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const lines = fs.readFileSync(0, 'latin1').split('\n');
  lines.pop();
  const answers = [];
  for (const line of lines) {
    const text = decoder.decode(Buffer.from(line, 'hex'));
    answers.push((await encode(text)).join(' '));
  }
  process.stdout.write(answers.map((answer) => `${answer}\n`).join(''));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
