// llama.cpp's view of GGUF files. Reads requests from standard input, a JSON array, and writes the
// answers, one JSON array:
//   model    the file
//   texts    texts as hexadecimal bytes: the answer's `ids` are their token ids, with what the file
//            says stands around a text
//   windows  lists of ids: the answer's `log_probabilities` are those of every id but the first,
//            after the ids before it in its window
//   logits   a list of ids: the answer's `logits` are all logits after each of them
// Node finds node-llama-cpp by NODE_PATH.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

// First of all: the library lets reads of standard input fail where they would wait.
const requests = JSON.parse(fs.readFileSync(0, 'utf8'));

const library = path.join(process.env.NODE_PATH, 'node-llama-cpp', 'dist', 'index.js');
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(library));

const llama = await getLlama({
  gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: 1,
});

// node-llama-cpp adds no token around a text; what llama.cpp would add, the file's metadata says.
function tokenize(model, hex) {
  const text = Buffer.from(hex, 'hex').toString('utf8');
  const { tokens } = model;
  const before = tokens.shouldPrependBosToken ? [tokens.bos] : [];
  const after = tokens.shouldAppendEosToken ? [tokens.eos] : [];
  return [...before, ...model.tokenize(text, true), ...after];
}

async function evaluate(model, length, use) {
  const context = await model.createContext({
    // In a context that is full the library drops its first tokens.
    contextSize: length + 8, batchSize: length, threads: 1, flashAttention: false,
    experimentalKvCacheKeyType: 'F32', experimentalKvCacheValueType: 'F32',
  });
  const answer = await use(context.getSequence());
  await context.dispose();
  return answer;
}

async function windowLogProbabilities(sequence, ids) {
  await sequence.clearHistory();
  const input = ids.map((id, i) => (i + 1 === ids.length ? id : [id, {
    // The most probable token is selected; its logit is the largest. (includeMax lacks it where it
    // is not among the filter's tokens.)
    generateNext: {
      token: true,
      options: { temperature: 0 },
      logits: { filter: { tokens: [ids[i + 1]], includeSelected: true } },
      totalLogitWeight: true,
    },
  }]));
  const outputs = await sequence.controlledEvaluate(input);
  return ids.slice(1).map((id, i) => {
    const { logits, totalLogitWeight } = outputs[i].next;
    const max = Math.max(...logits.values());
    return logits.get(id) - max - Math.log(totalLogitWeight);
  });
}

async function allLogits(sequence, ids) {
  const input = ids.map((id) => [id, { generateNext: { logits: true } }]);
  const outputs = await sequence.controlledEvaluate(input);
  return outputs.map(({ next }) => {
    const row = [];
    next.logits.forEach((logit, id) => { row[id] = logit; });
    return row;
  });
}

async function answer(request) {
  const model = await llama.loadModel({ modelPath: request.model });
  const found = {};
  if (request.texts) found.ids = request.texts.map((hex) => tokenize(model, hex));
  if (request.windows) {
    const length = Math.max(...request.windows.map((ids) => ids.length));
    found.log_probabilities = await evaluate(model, length, async (sequence) => {
      const all = [];
      for (const ids of request.windows) all.push(await windowLogProbabilities(sequence, ids));
      return all;
    });
  }
  if (request.logits) {
    found.logits = await evaluate(model, request.logits.length,
      (sequence) => allLogits(sequence, request.logits));
  }
  await model.dispose();
  return found;
}

const answers = [];
for (const request of requests) answers.push(await answer(request));
process.stdout.write(`${JSON.stringify(answers)}\n`, () => process.exit(0));
