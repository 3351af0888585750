// Reads Kubernetes objects as YAML, checks each against its published schema, and prints
// {"objects": [...], "findings": ["Kind name: what is wrong", ...]}.
//
// The schemas are those of npm's kubernetes-models, as compiled validators. They ignore fields that they do not
// know; so every object is shown to them through proxies that note which fields a validator looks at, and a field
// that none looked at is a finding.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const modules = process.env.NODE_PATH;
const require = createRequire(path.join(modules, "chart.js"));
const YAML = require("yaml");

const packages = { "monitoring.coreos.com": "@kubernetes-models/prometheus-operator" };

// The compiled validator of a kind; null where there is none.
async function validatorOf(apiVersion, kind) {
  const group = apiVersion.includes("/") ? apiVersion.split("/")[0] : "";
  const root = path.join(modules, packages[group] ?? "kubernetes-models");
  const model = path.join(root, apiVersion, `${kind}.js`);
  if (!fs.existsSync(model)) return null;
  const schema = /from"([^"]*_schemas\/[^"]*)"/.exec(fs.readFileSync(model, "utf8"));
  if (schema === null) throw new Error(`${model}: names no schema`);
  return (await import(pathToFileURL(path.resolve(path.dirname(model), schema[1])))).validate;
}

// `value` that notes in `seen` the paths of the fields that are read.
function watched(value, at, seen) {
  if (value === null || typeof value !== "object") return value;
  const children = new Map();
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === "symbol") return target[key];
      if (!Object.hasOwn(target, key)) return target[key];
      seen.add(`${at}/${key}`);
      if (!children.has(key)) children.set(key, watched(target[key], `${at}/${key}`, seen));
      return children.get(key);
    },
  });
}

// The paths below `value` that are not in `seen`; what lies below such a one is not listed.
function unseen(value, at, seen) {
  if (value === null || typeof value !== "object") return [];
  return Object.entries(value).flatMap(([key, child]) =>
    seen.has(`${at}/${key}`) ? unseen(child, `${at}/${key}`, seen) : [`${at}/${key}`]);
}

const objects = [];
const findings = [];
for (const document of YAML.parseAllDocuments(fs.readFileSync(0, "utf8"))) {
  for (const error of [...document.errors, ...document.warnings]) findings.push(`YAML: ${error.message}`);
  const object = document.toJS();
  if (object === null) continue;
  objects.push(object);
  const name = `${object.kind} ${object.metadata?.name}`;
  if (object.apiVersion === undefined || object.kind === undefined) {
    findings.push(`${name}: no object of Kubernetes`);
    continue;
  }
  const validate = await validatorOf(object.apiVersion, object.kind);
  if (validate === null) {
    findings.push(`${name}: no schema of ${object.apiVersion}`);
    continue;
  }
  const seen = new Set();
  if (!validate(watched(object, "", seen))) {
    for (const error of validate.errors) {
      findings.push(`${name}: ${error.instancePath}: ${error.keyword} ${JSON.stringify(error.params)}`);
    }
  }
  for (const field of unseen(object, "", seen)) findings.push(`${name}: ${field}: unknown field`);
}
process.stdout.write(JSON.stringify({ objects, findings }));
