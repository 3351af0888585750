// Gives a server many ended and some running jobs: jobs.cjs ADDRESS ENDED ACTIVE < a job as JSON.
// TEQ_PROTO names the directory of the .proto files.
'use strict';

const fs = require('fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, ended, active] = process.argv.slice(2);
const AT_ONCE = 32;

function client(service) {
  const { teq } = grpc.loadPackageDefinition(loader.loadSync(`teq/v1/${service.toLowerCase()}_service.proto`, {
    includeDirs: [process.env.TEQ_PROTO], keepCase: true, enums: String, longs: Number, oneofs: true,
  }));
  const stub = new teq.v1[`${service}Service`](address, grpc.credentials.createInsecure());
  return (method, request) => new Promise((resolve, reject) => {
    stub[method](request, { deadline: Date.now() + 60000 },
      (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

const jobs = client('Job');
const workers = client('Worker');
const { project: _, ...spec } = JSON.parse(fs.readFileSync(0, 'utf8'));

// Runs `count` tasks, some at once.
async function all(count, task) {
  let next = 0;
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (next < count) await task(next++);
  }));
}

let outputs = 0;
const create = (number) => jobs('CreateJob', {
  parent: `projects/p${number % 20}`,
  job: { spec: { ...spec, output: { ...spec.output, uri: `${spec.output.uri}-${outputs++}` } } },
});

// A worker that reports what a training's middle has to report.
async function run(number) {
  const { worker_session } = await workers('RegisterWorker', {
    worker_id: `w${number}`, boot_id: `b${number}`,
    capabilities: { devices: ['DEVICE_CPU'], engine_version: '0' },
  });
  const { lease } = await workers('AcquireLease', { worker_session, max_wait: { seconds: 20 } });
  const dataset = spec.evaluation.uris[0];
  await workers('Heartbeat', {
    lease_token: lease.lease_token, fence: lease.fence, sequence: 1,
    progress: { stage: 'STAGE_TRANSFORM', done: 50, total: 100, unit: 'steps' },
    samples: [{ step: 50, total_steps: 100, loss: 0.5, learning_rate: 0.001, tokens_per_second: 1000,
                observe_time: { seconds: Math.floor(Date.now() / 1000) } }],
    perplexities: ['PHASE_FULL_PRECISION', 'PHASE_ROUND_TO_NEAREST'].map(
      (phase) => ({ dataset, phase, value: 10 })),
  });
}

async function main() {
  await all(Number(ended), async (number) => {
    const { name } = await create(number);
    await jobs('CancelJob', { name });
  });
  await all(Number(active), create);
  await all(Number(active), run);
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
