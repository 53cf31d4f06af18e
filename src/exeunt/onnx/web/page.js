// Classifies inputs with the model in this folder, and shows at which exit an input left and what its answer cost.
import * as ort from "./ort.wasm.bundle.min.mjs";

const here = (name) => new URL(`./${name}`, import.meta.url).href;
const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;

async function load() {
  const about = await (await fetch(here("about.json"))).json();
  const input = await import(about.kind === "text" ? "./text.js" : "./image.js");
  return [about, input, await ort.InferenceSession.create(here("model.onnx"), { executionProviders: ["wasm"] })];
}

const [about, input, session] = await load().catch((error) => {
  $("waiting").textContent = `The network cannot be loaded: ${error.message}. Is this folder complete, and served over HTTP?`;
  throw error;
});
const { full } = about;
const costs = []; // of the inputs so far

/** Return the number that breaks ties between scores: a hash of the input's values (FNV-1a, 64 bits). */
function keyOf(tensors) {
  let key = 0xcbf29ce484222325n;
  for (const { data } of Object.values(tensors)) {
    for (const word of new Uint32Array(data.buffer)) key = BigInt.asUintN(64, (key ^ BigInt(word)) * 0x100000001b3n);
  }
  return key;
}

/** Return {label, probabilities, exit, cost, ms} of an input as `input.prepare` takes it. */
export async function answer(given) {
  const tensors = await input.prepare(given, about.prepare);
  const feeds = { key: new ort.Tensor("uint64", BigUint64Array.of(keyOf(tensors)), [1]) };
  for (const [name, { type, data, dims }] of Object.entries(tensors)) feeds[name] = new ort.Tensor(type, data, dims);
  const began = performance.now();
  const found = await session.run(feeds);
  return {
    label: Number(found.label.data[0]), probabilities: found.probabilities.data,
    exit: Number(found.exit.data[0]), cost: found.cost.data[0], ms: performance.now() - began,
  };
}
export const prepared = (given) => input.prepare(given, about.prepare);

const amount = (cost) => {
  const known = /^([kMG]?)(MACs)$/.exec(about.unit);
  if (!known) return `${Number(cost.toPrecision(3))} ${about.unit}`;
  const value = cost * { "": 1, k: 1e3, M: 1e6, G: 1e9 }[known[1]];
  const [scale, letter] = value >= 1e9 ? [1e9, "G"] : value >= 1e6 ? [1e6, "M"] : [1e3, "k"];
  return `${Number((value / scale).toPrecision(3))} ${letter}MACs`;
};
const nameOf = (label) => about.class_names[label] ?? `class ${label}`;

function showExits() {
  const line = $("exits");
  line.style.gridTemplateColumns = about.cost.map((cost, i) => `${cost - (about.cost[i - 1] ?? 0)}fr`).join(" ");
  about.cost.forEach((cost, i) => {
    const piece = document.createElement("li");
    piece.title = `exit ${i}: ${amount(cost)}, ${percent(cost / full)} of the full network`;
    line.append(piece);
  });
}

function showAnswer({ label, probabilities, exit, cost, ms }) {
  if (exit < 0) throw new Error("The network has no answer: this input leads to values that are not finite.");
  $("label").textContent = nameOf(label);
  $("exit").textContent = `Answered at exit ${exit}: ${exit + 1} of ${about.cost.length} exits were reached, in ${ms.toFixed(1)} ms.`;
  $("cost").textContent = amount(cost);
  $("full").textContent = amount(full);
  $("share").textContent = percent(cost / full);
  [...$("exits").children].forEach((piece, i) => { piece.className = i < exit ? "run" : i === exit ? "run here" : ""; });
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, 5);
  $("classes").replaceChildren(...order.map((k) => {
    const row = document.createElement("li");
    row.style.setProperty("--share", probabilities[k]);
    const name = document.createElement("span"), share = document.createElement("b");
    name.textContent = nameOf(k);
    share.textContent = percent(probabilities[k]);
    row.append(name, share);
    return row;
  }));
  costs.push(cost);
  const mean = costs.reduce((sum, one) => sum + one, 0) / costs.length;
  $("so-far").textContent = `${costs.length} ${costs.length === 1 ? "input" : "inputs"} so far: ` +
    `${amount(mean)} on average, ${percent(mean / full)} of the full network.`;
  $("answer").hidden = false;
}

const queue = { last: Promise.resolve() };
function give(given) {
  queue.last = queue.last.then(async () => {
    $("problem").hidden = true;
    try {
      showAnswer(await answer(given));
    } catch (error) {
      $("answer").hidden = true;
      $("problem").textContent = error.message;
      $("problem").hidden = false;
    }
  });
}

showExits();
input.listen($("input"), give);
$("waiting").hidden = true;
$("input").hidden = false;
