// What is compared, and what of it is shown now.
const data = JSON.parse(byId("data").textContent);
const REFERENCES = ["oracle", "mixture", "exits"];

const gains = new Map(data.overall.map((row) => [row.policy, row.mean_gain ?? -Infinity]));
const names = [...new Set(data.traces.flatMap((trace) => trace.policies.map((policy) => policy.name)))];

// Shown at first: the default of the command line, what gains are against, and the best others, two at least.
function firstShown() {
  const always = [...new Set(["auto", "eero", data.reference])].filter((name) => names.includes(name));
  const others = names.filter((name) => !always.includes(name));
  others.sort((a, b) => (gains.get(b) ?? -Infinity) - (gains.get(a) ?? -Infinity));
  return [...always, ...others.slice(0, Math.max(2, 4 - always.length))];
}

// Those shown at first come first, and get the marks that differ most.
const ordered = [...firstShown(), ...names.filter((name) => !firstShown().includes(name))];

// What a policy is, in a sentence; null where there is none.
const description = (name) => data.about?.[name] ?? null;

const state = {
  trace: 0,
  budget: 0.5,
  view: "accuracy",
  spend: "mean",
  on: new Set(firstShown()),
  references: new Set(REFERENCES),
  sort: { table: ["gain", -1], overall: ["mean_gain", -1] },
};

const trace = () => data.traces[state.trace];
const shownPolicies = () =>
  ordered.filter((name) => state.on.has(name))
    .map((name) => trace().policies.find((policy) => policy.name === name)).filter(Boolean);

// What costs are shares of: those of the full network, or of a model run alone.
const wholeCost = () => (isOfModels() ? `the cost of ${trace().whole}` : `${trace().whole}'s cost`);

// A model's exit has a name; those of one network are numbered.
const isOfModels = () => trace().models.length > 0;
const exitName = (j, plain = `${j} (0 = first)`) => (isOfModels() ? trace().exit_points[j].name : plain);

// What policies are compared with, by key.
function referenceName(key) {
  const { one_exit: exit } = trace();
  return { oracle: "oracle", mixture: `mixture of two ${exit}s`, exits: `each ${exit} alone` }[key];
}

// The place of the chosen budget among those of this network: another network may have others.
function budgetIndex() {
  const away = trace().budgets.map((budget) => Math.abs(budget - state.budget));
  return away.indexOf(Math.min(...away));
}
