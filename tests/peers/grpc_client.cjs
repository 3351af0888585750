// Creates the job on standard input, follows it, and prints what it saw as JSON.
// grpc_client.cjs ADDRESS; TEQ_PROTO names the directory of the .proto files.
'use strict';

const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const TRACEPARENT = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
const address = process.argv[2];
const protos = process.env.TEQ_PROTO;

function load(file, root) {
  return grpc.loadPackageDefinition(loader.loadSync(file, {
    includeDirs: [root], keepCase: true, enums: String, longs: Number, oneofs: true, defaults: true,
  }));
}

const { teq } = load('teq/v1/job_service.proto', protos);
const { grpc: { health } } = load('grpc/health/v1/health.proto', '/usr/share/grpc-proto');
const details = new protobuf.Root();
details.resolvePath = (_, target) => {
  const bundled = protobuf.common.get(target);
  return bundled ? null : path.join(protos, target);
};
details.loadSync(['google/rpc/status.proto', 'google/rpc/error_details.proto']);
const anyType = new protobuf.Type('Any')
  .add(new protobuf.Field('type_url', 1, 'string'))
  .add(new protobuf.Field('value', 2, 'bytes'));

const jobs = new teq.v1.JobService(address, grpc.credentials.createInsecure());
const call = (client, method, request, metadata = new grpc.Metadata()) => new Promise((resolve, reject) => {
  client[method](request, metadata, { deadline: Date.now() + 20000 },
    (error, answer) => (error ? reject(error) : resolve(answer)));
});

// google.rpc.Status of an error, its details by type.
function read(error) {
  const [bytes] = error.metadata.get('grpc-status-details-bin');
  // Status: code 1, message 2, details 3 of type Any.
  const raw = new protobuf.Type('Status')
    .add(new protobuf.Field('code', 1, 'int32'))
    .add(new protobuf.Field('message', 2, 'string'))
    .add(new protobuf.Field('details', 3, 'Any', 'repeated'))
    .add(anyType)
    .decode(bytes);
  const found = {};
  for (const detail of raw.details) {
    const name = detail.type_url.split('/').pop();
    found[name.split('.').pop()] = details.lookupType(name).decode(detail.value);
  }
  if (raw.code !== error.code || raw.message !== error.details) {
    throw new Error(`status and trailer disagree: ${raw.code} ${error.code}`);
  }
  return found;
}

function watch(name, resumeToken) {
  return new Promise((resolve, reject) => {
    const messages = [];
    const stream = jobs.WatchJob({ name, resume_token: resumeToken });
    stream.on('data', (message) => messages.push(message));
    stream.on('error', reject);
    stream.on('end', () => resolve(messages));
  });
}

const events = (messages) => messages.filter((m) => m.payload === 'event').map((m) => m.event);

async function main() {
  const { model, recipe, calibration, evaluation, output } = JSON.parse(fs.readFileSync(0, 'utf8'));
  const request = {
    parent: 'projects/js',
    job: { spec: { model, recipe, calibration, evaluation, output } },
    request_id: '6f1ed002-ab5c-4c1b-9bd1-8a6d3a1f0001',
  };
  const validated = await call(jobs, 'CreateJob', { ...request, validate_only: true });
  const estimate = await call(jobs, 'EstimateJob', { parent: request.parent, spec: request.job.spec });
  const metadata = new grpc.Metadata();
  metadata.set('traceparent', TRACEPARENT);
  const created = await call(jobs, 'CreateJob', request, metadata);
  const got = await call(jobs, 'GetJob', { name: created.name });
  const messages = await watch(created.name, '');
  if (messages[0].payload !== 'snapshot') throw new Error('the first message is no snapshot');
  const seen = events(messages);
  const firstEvent = messages.find((m) => m.payload === 'event');
  const resumed = events(await watch(created.name, firstEvent.resume_token));

  const notFound = await call(jobs, 'GetJob', { name: 'projects/js/jobs/nobody' }).catch((e) => e);
  const bad = structuredClone(request);
  bad.request_id = '6f1ed002-ab5c-4c1b-9bd1-8a6d3a1f0002';
  bad.job.spec.recipe.weights.bits = 5;
  const invalid = await call(jobs, 'CreateJob', bad).catch((e) => e);

  const checker = new health.v1.Health(address, grpc.credentials.createInsecure());
  const states = [];
  for (const service of ['', 'teq.v1.JobService', 'teq.v1.WorkerService', 'teq.v1.ArtifactService']) {
    states.push((await call(checker, 'Check', { service })).status);
  }

  console.log(JSON.stringify({
    validated: validated.name,
    estimated: { stages: estimate.stages.map((s) => s.stage), outputs: estimate.outputs.map((o) => o.format) },
    created,
    got: got.name,
    states: seen.filter((e) => e.payload === 'state_change').map((e) => e.state_change.to),
    samples: seen.filter((e) => e.payload === 'sample').map((e) => e.sample.step),
    sequences: seen.map((e) => e.sequence),
    resumed: resumed.map((e) => e.sequence),
    not_found: {
      code: notFound.code, reason: read(notFound).ErrorInfo.reason,
      domain: read(notFound).ErrorInfo.domain,
    },
    invalid: {
      code: invalid.code, reason: read(invalid).ErrorInfo.reason,
      fields: read(invalid).BadRequest.fieldViolations.map((v) => v.field),
    },
    health: states,
  }));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
