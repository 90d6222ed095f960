// Runs a workflow on this machine: GitHub's parser and evaluator decide what runs, bash runs it, stand-ins are actions.
//
//   node runner.mjs SCENARIO.json...    prints what came of each, a line of JSON
//
// A scenario: workflow, github (the context), files (path -> workflow, for what is called), root (the repository), stand_ins
// (a folder that is first on PATH), work (an empty folder), and what happens to it: cancelled (sessions), skipped (jobs), lost
// (artifacts), approved (environments), inputs (of who starts it by hand), artifacts (name -> folder: other jobs' and those of an
// earlier attempt at the same run), left (path -> folder: what earlier jobs left on machines of one's own), enterprise (whether it
// is GitHub Enterprise Server, which has no other machines, and artifact actions up to version 3).
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import "./json.mjs";
import { evaluate, filled, holds, shown, value } from "./expressions.mjs";

const { NoOperationTraceWriter, convertWorkflowTemplate, parseWorkflow } = await import("@actions/workflow-parser");
const { parse } = await import("yaml");

let scenario, store, log;

class Cancelled extends Error {}

async function read(path) {
  const file = { name: path, content: readFileSync(join(scenario.root, path), "utf8") };
  const parsed = parseWorkflow(file, new NoOperationTraceWriter());
  const called = {
    getFileContent: async ({ path }) => ({ name: path, content: readFileSync(join(scenario.root, path), "utf8") }),
  };
  const template = await convertWorkflowTemplate(parsed.context, parsed.value, called, { fetchReusableWorkflowDepth: 1 });
  if (template.errors) throw new Error(`${path}: ${template.errors.map((error) => error.Message).join("; ")}`);
  return { template, tokens: parsed.value };
}

// The value of a key in a mapping token.
const child = (token, key) => token?.find?.(key);

// Pull requests start a workflow by default when opened, reopened or pushed to; every other event always.
function triggered(events, { event_name: name, event }) {
  const found = events[name];
  if (found === undefined) return false;
  if (name === "workflow_run" && !found.workflows.includes(event.workflow_run.name)) return false;
  if (name === "push") return !!found.tags?.some((tag) => new RegExp(`^refs/tags/${tag.replaceAll("*", "[^/]*")}$`).test(scenario.github.ref));
  const types = found?.types ?? (name === "pull_request" ? ["opened", "synchronize", "reopened"] : []);
  return !types.length || !event.action || types.includes(event.action);
}

// Jobs in the order of their needs. Every job ends as success, failure, cancelled or skipped.
async function runJobs({ template, tokens }, inputs, prefix) {
  const done = {};
  const waiting = [...template.jobs];
  while (waiting.length) {
    const index = waiting.findIndex((job) => (job.needs ?? []).every((need) => need.value in done));
    const [job] = waiting.splice(index, 1);
    const id = job.id.value;
    done[id] = await runJob(job, child(child(tokens, "jobs"), id), { tokens, inputs, done, prefix });
    done[id].ancestors = (job.needs ?? []).flatMap((need) => [need.value, ...done[need.value].ancestors]);
    log.push({ job: `${prefix}${id}`, result: done[id].result });
  }
  return done;
}

async function runJob(job, token, { tokens, inputs, done, prefix }) {
  const needs = Object.fromEntries(
    (job.needs ?? []).map((need) => [need.value, { result: done[need.value].result, outputs: done[need.value].outputs }]),
  );
  const contexts = { github: scenario.github, inputs, needs, vars: {} };
  const before = (job.needs ?? [])
    .flatMap((need) => [need.value, ...done[need.value].ancestors])
    .map((name) => done[name].result);
  const status = {
    success: before.every((result) => result === "success"),
    failure: before.includes("failure"),
    cancelled: false, // a leg may be, the run is not
  };
  if (scenario.skipped?.includes(job.id.value) || !holds(job.if, contexts, status)) return { result: "skipped", outputs: {} };
  if (job.type === "reusableWorkflowJob") return runCalled(job, contexts);
  if (job.environment && !scenario.approved?.includes(shown(value(job.environment, contexts))))
    return { result: "failure", outputs: {} };
  const legs = job.strategy ? value(child(child(token, "strategy"), "matrix"), contexts).include : [{}];
  if (!legs?.length) throw new Error(`${job.id.value}: the matrix is empty, which GitHub refuses`);
  const ended = legs.map((matrix) => runLeg(job, token, tokens, { ...contexts, matrix, strategy: {} }, prefix));
  const result = ["failure", "cancelled"].find((bad) => ended.some((leg) => leg.result === bad)) ?? "success";
  return { result, outputs: ended.at(-1).outputs };
}

async function runCalled(job, contexts) {
  const path = job.ref.value.replace(/^(\.\/|[^/]+\/[^/]+\/)/, "").replace(/@.*$/, "");
  const called = await read(path);
  const given = value(job["input-values"], contexts) ?? {};
  const defined = called.template.events.workflow_call.inputs;
  if (Object.keys(given).some((name) => !(name in defined))) throw new Error(`${path}: an input that it does not have`);
  const inputs = Object.fromEntries(
    Object.entries(defined).map(([name, { default: fallback }]) => [name, given[name] ?? fallback ?? ""]),
  );
  const done = await runJobs(called, inputs, `${job.id.value} / `);
  const results = Object.values(done).map(({ result }) => result);
  return { result: ["failure", "cancelled"].find((bad) => results.includes(bad)) ?? "success", outputs: {} };
}

// One job, or one leg of its matrix: steps one after the other, in a workspace of its own.
function runLeg(job, token, tokens, given, prefix) {
  const name = shown(value(job.name, given));
  const place = join(scenario.work, "jobs", `${prefix}${job.id.value}-${name}`.replace(/[^\w.-]/g, "_"));
  const workspace = join(place, "workspace");
  const temp = join(place, "temp");
  for (const folder of [workspace, temp]) mkdirSync(folder, { recursive: true });
  const files = Object.fromEntries(
    ["OUTPUT", "ENV", "PATH", "STEP_SUMMARY"].map((kind) => [`GITHUB_${kind}`, join(temp, kind)]),
  );
  const contexts = {
    ...given,
    github: { ...given.github, workspace, job: job.id.value },
    env: { ...texts(value(child(tokens, "env"), given)), ...texts(value(child(token, "env"), given)) },
    job: { status: "success", ...scenario.job },
    runner: {
      temp,
      os: "Linux",
      environment:
        !scenario.enterprise && [value(job["runs-on"], given)].flat().join() === "ubuntu-24.04" ? "github-hosted" : "self-hosted",
    },
    steps: {},
  };
  const leg = { place, workspace, temp, files, contexts, result: "success", steps: [] };
  if (contexts.runner.environment === "self-hosted")
    for (const [path, from] of Object.entries(scenario.left ?? {})) cpSync(from, join(workspace, path), { recursive: true });
  const steps = child(token, "steps");
  job.steps.forEach((step, index) => runStep(leg, step, steps.get(index), child(child(tokens, "defaults"), "run")));
  const outputs = value(job.outputs, contexts) ?? {};
  const summary = existsSync(files.GITHUB_STEP_SUMMARY) ? readFileSync(files.GITHUB_STEP_SUMMARY, "utf8") : "";
  log.push({ leg: `${prefix}${name}`, result: leg.result, steps: leg.steps, summary, runner: value(job["runs-on"], given) });
  return { result: leg.result, outputs };
}

function runStep(leg, step, token, defaults) {
  const name = shown(value(step.name, leg.contexts));
  const status = {
    success: leg.result === "success",
    failure: leg.result === "failure",
    cancelled: leg.result === "cancelled",
  };
  if (!holds(step.if, leg.contexts, status)) return void leg.steps.push({ name, result: "skipped" });
  const contexts = { ...leg.contexts, env: { ...leg.contexts.env, ...texts(value(step.env, leg.contexts)) } };
  const where =
    value(child(token, "working-directory"), contexts) ?? value(child(defaults, "working-directory"), contexts) ?? ".";
  let result = "success";
  let output = "";
  try {
    output =
      "run" in step
        ? bash(leg, contexts, shown(value(step.run, contexts)), where)
        : act(leg, contexts, step.uses.value, value(child(token, "with"), contexts) ?? {});
  } catch (error) {
    result = error instanceof Cancelled ? "cancelled" : "failure";
    output = error.message;
  }
  leg.contexts.steps[step.id] = { outputs: outputs(leg.files.GITHUB_OUTPUT), outcome: result, conclusion: result };
  rmSync(leg.files.GITHUB_OUTPUT, { force: true });
  if (result !== "success" && leg.result === "success") leg.result = result;
  leg.steps.push({ name, result, output });
}

const texts = (found) => Object.fromEntries(Object.entries(found ?? {}).map(([key, one]) => [key, shown(one)]));

function outputs(path) {
  const lines = existsSync(path) ? readFileSync(path, "utf8").split("\n").filter(Boolean) : [];
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]));
}

function bash(leg, contexts, script, where) {
  if (scenario.cancelled?.includes(contexts.env.SESSION)) throw new Cancelled("The operation was canceled.");
  const added = existsSync(leg.files.GITHUB_PATH)
    ? readFileSync(leg.files.GITHUB_PATH, "utf8").trim().split("\n").reverse()
    : [];
  const { event, event_name, repository, sha, ref, base_ref, api_url, run_id } = contexts.github;
  const told = join(leg.temp, "event.json");
  writeFileSync(told, JSON.stringify(event));
  const environment = {
    ...{ HOME: leg.temp, CI: "true", LANG: "C.UTF-8", ...scenario.environment },
    ...{ PATH: [...added, scenario.stand_ins, process.env.PATH].join(":") },
    ...{
      GITHUB_ACTIONS: "true",
      GITHUB_EVENT_NAME: event_name,
      GITHUB_REPOSITORY: repository,
      GITHUB_SHA: sha,
      GITHUB_REF: ref,
      GITHUB_EVENT_PATH: told,
      GITHUB_SERVER_URL: contexts.github.server_url,
      GITHUB_RUN_ID: run_id,
    },
    ...{ GITHUB_BASE_REF: base_ref ?? "", GITHUB_API_URL: api_url, GITHUB_WORKSPACE: leg.workspace, RUNNER_TEMP: leg.temp },
    ...{ GITHUB_ACTION_PATH: contexts.github.action_path ?? "", ...leg.files, ...contexts.env },
  };
  const cwd = resolve(leg.workspace, where);
  if (!`${cwd}/`.startsWith(`${leg.workspace}/`)) throw new Error(`${cwd} is outside of the workspace`);
  const ended = spawnSync("bash", ["--noprofile", "--norc", "-eo", "pipefail", "-c", script], {
    cwd,
    env: environment,
    encoding: "utf8",
  });
  const said = `${ended.stdout ?? ""}${ended.stderr ?? ""}${ended.error ?? ""}`;
  if (ended.status !== 0) throw new Error(said || `exit code ${ended.status}`);
  return said;
}

// Stand-ins for actions of others, and the repository's composite action for real.
function act(leg, contexts, uses, given) {
  if (uses.startsWith("./")) return composite(leg, contexts, join(leg.workspace, uses), given);
  if (!/@[0-9a-f]{40}$/.test(uses)) throw new Error(`${uses} is not pinned`);
  const [action, commit] = uses.split("@");
  const known = VERSION_3[commit];
  if (scenario.enterprise && action.endsWith("-artifact") && !known) throw new Error(`${uses} is not on GitHub Enterprise Server`);
  const strange = known && Object.keys(given).find((name) => !known.includes(name));
  if (strange) throw new Error(`${uses} has no input ${strange}`);
  return ACTIONS[action](leg, given, known !== undefined);
}

// What artifact actions of version 3 take, as their action.yml has it.
const VERSION_3 = {
  c24449f33cd45d4826c6702db7e49f7cdb9b551d: ["name", "path", "if-no-files-found", "retention-days", "include-hidden-files"],
  ad191675b41f6a5b46da9a048cb6893812da158b: ["name", "path"],
};

function composite(leg, contexts, folder, given) {
  const action = parse(readFileSync(join(folder, "action.yml"), "utf8"));
  if (Object.keys(given).some((name) => !(name in action.inputs))) throw new Error(`${folder}: an input that it does not have`);
  const inputs = Object.fromEntries(
    Object.entries(action.inputs).map(([name, input]) => [name, given[name] ?? input.default ?? ""]),
  );
  const inside = { ...contexts, inputs, github: { ...contexts.github, action_path: folder } };
  for (const step of action.runs.steps) {
    if (step.if !== undefined && !evaluate(step.if, inside, { success: true })) continue;
    const env = Object.fromEntries(Object.entries(step.env ?? {}).map(([key, text]) => [key, filled(text, inside)]));
    if (step.run) bash(leg, { ...inside, env: { ...inside.env, ...env } }, filled(step.run, inside), ".");
    else {
      const given = Object.entries(step.with ?? {}).map(([name, text]) => [name, filled(String(text), inside)]);
      act(leg, inside, step.uses, Object.fromEntries(given));
    }
  }
  return "";
}

const ACTIONS = {
  "actions/setup-python": () => "",
  "actions/checkout": ({ workspace, files }, { path = ".", ref, "persist-credentials": kept }) => {
    if (String(kept) !== "false") throw new Error("the checkout keeps its credentials");
    const folder = join(workspace, path);
    mkdirSync(folder, { recursive: true });
    const names =
      path === "plumbline" ? readdirSync(scenario.root).filter((name) => !["results", ".nox", ".git"].includes(name)) : [];
    for (const name of names) symlinkSync(join(scenario.root, name), join(folder, name));
    for (const name of path === "recipe" ? readdirSync(scenario.recipes) : [])
      symlinkSync(join(scenario.recipes, name), join(folder, name));
    appendFileSync(files.GITHUB_OUTPUT, `commit=${ref}\n`);
    return `${ref} in ${path}`;
  },
  // Version 3 adds files to an artifact that is there; later ones refuse to, or replace it.
  "actions/upload-artifact": ({ workspace }, { name, path, "if-no-files-found": missing = "warn", overwrite }, adds) => {
    const from = join(workspace, path);
    if (!existsSync(from) && missing === "error") throw new Error(`No files were found with the provided path: ${path}`);
    if (existsSync(join(store, name)) && !adds && String(overwrite) !== "true") throw new Error(`there is an artifact ${name} already`);
    if (existsSync(from) && !adds) rmSync(join(store, name), { recursive: true, force: true });
    if (existsSync(from) && !scenario.lost?.includes(name))
      cpSync(from, join(store, name), { recursive: true, dereference: true });
    return name;
  },
  "actions/download-artifact": ({ workspace }, { name, pattern, path = ".", "run-id": run }) => {
    if (run && scenario.lost?.includes(name)) throw new Error(`Artifact not found for name: ${name}`);
    if (run && !pattern) return cpSync(join(scenario.baselines, String(run)), join(workspace, path), { recursive: true }) ?? "";
    const from = run ? join(scenario.baselines, String(run)) : store;
    const all = readdirSync(from); // without a name or a pattern they are all fetched
    const wanted = all.filter((one) => (pattern ? one.startsWith(pattern.replace(/\*$/, "")) : !name || one === name));
    if (name && !wanted.length) throw new Error(`Artifact not found for name: ${name}`);
    const into = (one) => (name ? join(workspace, path) : join(workspace, path, one)); // one by its name comes without its folder
    for (const one of wanted) cpSync(join(from, one), into(one), { recursive: true });
    return wanted.join("\n");
  },
  "actions/attest-build-provenance": ({ workspace }, { "subject-path": files }) =>
    digests(join(workspace, files.replace(/\/\*$/, ""))),
  "pypa/gh-action-pypi-publish": ({ workspace }, { "packages-dir": folder = "dist" }) => digests(join(workspace, folder)),
};

// Files of a folder, each with its digest; with none of them an action has nothing to do and fails.
function digests(folder) {
  const names = existsSync(folder) ? readdirSync(folder).sort() : [];
  if (!names.length) throw new Error(`no files in ${folder}`);
  return names.map((name) => `${name} ${createHash("sha256").update(readFileSync(join(folder, name))).digest("hex")}`).join("\n");
}

async function play(path) {
  scenario = JSON.parse(readFileSync(path, "utf8"));
  store = join(scenario.work, "artifacts");
  log = [];
  mkdirSync(store, { recursive: true });
  for (const [name, from] of Object.entries(scenario.artifacts ?? {})) cpSync(from, join(store, name), { recursive: true });
  const workflow = await read(scenario.workflow);
  if (!triggered(workflow.template.events, scenario.github)) return { triggered: false, jobs: {}, legs: [] };
  await runJobs(workflow, scenario.inputs, "");
  const jobs = Object.fromEntries(log.filter((entry) => entry.job).map(({ job, result }) => [job, result]));
  return { triggered: true, jobs, legs: log.filter((entry) => entry.leg) };
}

for (const path of process.argv.slice(2)) console.log(JSON.stringify(await play(path)));
