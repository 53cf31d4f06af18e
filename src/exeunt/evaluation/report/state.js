// What is compared, what of it is shown now, and how each policy looks.
const data = JSON.parse(byId("data").textContent);
const PRODUCT = "auto";
const REFERENCES = ["oracle", "mixture", "exits"];

// What the quality of answers is called: "accuracy" where they are right or wrong.
const measures = new Set(data.traces.map((one) => one.measure ?? "accuracy"));
const MEASURE = measures.size === 1 ? [...measures][0] : "quality";
const MEASURE_FIRST = MEASURE[0].toUpperCase() + MEASURE.slice(1);  // at the beginning of a sentence

const gains = new Map(data.overall.map((row) => [row.policy, row.mean_gain ?? -Infinity]));
const names = [...new Set(data.traces.flatMap((trace) => trace.policies.map((policy) => policy.name)))];

// At first: the product, the policy that gains are against, and the best others: three curves, and the mixture.
function firstShown() {
  const always = [...new Set([PRODUCT, data.reference])].filter((name) => names.includes(name));
  const others = names.filter((name) => !always.includes(name));
  others.sort((a, b) => (gains.get(b) ?? -Infinity) - (gains.get(a) ?? -Infinity));
  return [...always, ...others].slice(0, 3);
}

// Those shown at first come first, and get the marks that differ most.
const ordered = [...firstShown(), ...names.filter((name) => !firstShown().includes(name))];

// What a policy is, in a sentence; null where there is none.
const description = (name) => data.about?.[name] ?? null;
const curveName = (name) => (name === PRODUCT ? `${name} (Exeunt)` : name);

const state = {
  trace: 0,
  budget: 0.5,  // the nearest is shown
  view: "accuracy",
  cost: "mean",
  on: new Set(firstShown()),
  references: new Set(["mixture", "exits"]),
  sort: { table: ["gain", -1], overall: ["mean_gain", -1] },
};

const trace = () => data.traces[state.trace];
const shownPolicies = () =>
  ordered.filter((name) => state.on.has(name))
    .map((name) => trace().policies.find((policy) => policy.name === name)).filter(Boolean);

// What costs are shares of: the cost of the full network, or of a model run alone.
const wholeCost = () => (isOfModels() ? `the cost of ${trace().whole}` : `${trace().whole}'s cost`);

// A model's exit has a name; those of one network are numbered.
const isOfModels = () => trace().models.length > 0;
const exitName = (j, plain = `${j} (0 = first)`) => (isOfModels() ? trace().exit_points[j].name : plain);

// What policies are compared with, by key.
function referenceName(key) {
  const { one_exit: exit } = trace();
  return { oracle: "oracle", mixture: `random mixture of two ${exit}s`, exits: `each ${exit} alone` }[key];
}

// The index of the budget nearest to one: another trace may have other budgets.
function budgetIndex(budget = state.budget) {
  const away = trace().budgets.map((one) => Math.abs(one - budget));
  return away.indexOf(Math.min(...away));
}

// The look of a policy: colour, marker and line. The strongest colour is the product's. The other policies differ in
// colour and marker; then the lines change, so that no two look the same, and none is known by its colour alone.
const MARKERS = {
  circle: "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0-8.4 0Z",
  square: "M-3.8-3.8h7.6v7.6h-7.6Z",
  triangle: "M0-5L4.8 3.6H-4.8Z",
  diamond: "M0-5.4L5.4 0L0 5.4L-5.4 0Z",
  down: "M0 5L4.8-3.6H-4.8Z",
  plus: "M-1.7-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3Z",
  star: "M0-5.8L1.6-1.9L5.7-1.7L2.5.9L3.6 4.9L0 2.6L-3.6 4.9L-2.5.9L-5.7-1.7L-1.6-1.9Z",
};
const [FIRST, ...SHAPES] = Object.values(MARKERS);
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const TONES = 5;

function markOf(name) {
  if (name === PRODUCT) return { tone: "tone-product", shape: FIRST, dash: "" };
  const i = ordered.filter((other) => other !== PRODUCT).indexOf(name);
  return {
    tone: `tone-${i % TONES}`, shape: SHAPES[i % SHAPES.length], dash: DASHES[Math.floor(i / TONES) % DASHES.length],
  };
}

const REFERENCE_MARKS = {
  oracle: { tone: "tone-oracle", shape: "M-4 0h8", dash: "1 4", round: true },
  mixture: { tone: "tone-mixture", shape: "M-3-3L3 3M3-3L-3 3", dash: "3 3" },
  exits: { tone: "tone-exits", shape: "M0-4.5L4.5 0L0 4.5L-4.5 0Z", dash: null, hollow: true },
};

const markClass = (mark) => `mark ${mark.tone}${mark.hollow ? " hollow" : ""}`;

// A line with its marker, for legends, tables and labels.
function swatch(mark, width = 30) {
  return svg("svg", { class: `swatch ${mark.tone}`, width, height: 14, viewBox: `0 0 ${width} 14`, "aria-hidden": "true" },
    mark.dash === null ? null : svg("path", { class: "line", d: `M1 7H${width - 1}`, "stroke-dasharray": mark.dash }),
    svg("path", { class: markClass(mark), d: mark.shape, transform: `translate(${width / 2} 7)` }));
}
