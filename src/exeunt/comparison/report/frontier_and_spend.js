// What the two charts of lines show: accuracy or gain against what was spent, and spend against budget.
function pointTooltip(name, mark, point) {
  return { title: name, mark, rows: [
    ["budget", share(point.budget)],
    ["accuracy", withInterval(point.accuracy, point.accuracy_low, point.accuracy_high, percent)],
    ["gain", withInterval(point.gain, point.gain_low, point.gain_high, points)],
    ["spend", withInterval(point.spend, point.spend_low, point.spend_high, percent)],
    ["overspent", `${overspent(point)} splits`],
  ] };
}

// Series of the policies that are on; `place(point)` gives {x, y, low, high, ...}.
const policySeries = (place) => shownPolicies().map(({ name, points: all }) => {
  const mark = markOf(name);
  return { key: name, name, mark, points: all.map((point) =>
    ({ budget: point.budget, tooltip: pointTooltip(name, mark, point), ...place(point) })) };
});

function referenceSeries() {
  const { oracle, mixture, exit_points: exits } = trace();
  const tooltip = (key, point, rows) => ({ title: referenceName(key), mark: REFERENCE_MARKS[key], rows: [
    ...rows, ["accuracy", withInterval(point.accuracy, point.accuracy_low, point.accuracy_high, percent)]] });
  const found = {
    oracle: oracle.map((p) => ({ x: p.budget, tooltip: tooltip("oracle", p, [["budget", share(p.budget)]]), p })),
    mixture: mixture.map((p) => ({
      x: p.spend, tooltip: tooltip("mixture", p, [["budget", share(p.budget)], ["spend", share(p.spend)]]), p })),
    exits: exits.map((p, j) => ({
      x: p.cost, tooltip: tooltip("exits", p, [[trace().one_exit, exitName(j)], ["cost", share(p.cost)]]), p })),
  };
  return REFERENCES.filter((key) => state.references.has(key)).map((key) => ({
    key, name: referenceName(key), mark: REFERENCE_MARKS[key], reference: true,
    points: found[key].map(({ x, tooltip: shown, p }) =>
      ({ x, y: p.accuracy, low: p.accuracy_low, high: p.accuracy_high, budget: p.budget, tooltip: shown })),
  }));
}

const chosenBudget = ({ x, inner }) => {
  const at = near(x(trace().budgets[budgetIndex()]));
  return svg("line", { class: "chosen", x1: at, x2: at, y1: inner.top - 6, y2: inner.bottom });
};
const level = ({ y, inner }, value, text) => svg("g", { class: "level" },
  svg("line", { x1: inner.left, x2: inner.right, y1: near(y(value)), y2: near(y(value)) }),
  svg("text", { x: inner.left + 4, y: near(y(value) - 6), text }));

const values = (series, ...keys) => series.flatMap((one) => one.points.flatMap((p) => keys.map((key) => p[key])));
const budgetDomain = () => extent(trace().budgets, 0.1);

function drawFrontier() {
  const gain = state.view === "gain";
  byId("frontier-caption").textContent = gain
    ? `Points of accuracy above ${data.reference} at the same budget, on the same splits. `
      + "Shaded: 95\u00a0% intervals."
    : "Share of right answers against what was really spent per input. Up and to the left is better. "
      + "Shaded: 95\u00a0% intervals. The upright line is the chosen budget.";
  lineChart(byId("frontier"), gain ? gainSpec() : accuracySpec());
  if (!gain) byId("frontier-caption").append(exitsOutside());
}

function exitsOutside() {
  if (!state.references.has("exits")) return "";
  const away = trace().exit_points.length - document.querySelectorAll("#frontier [data-key=exits] .point").length;
  return away ? ` ${count(away, trace().one_exit)} alone ${away === 1 ? "lies" : "lie"} outside the chart.` : "";
}

function accuracySpec() {
  const full = trace().full_accuracy.mean;
  const policies = policySeries((p) => ({
    x: p.spend, y: p.accuracy, low: p.accuracy_low, high: p.accuracy_high, left: p.spend_low, right: p.spend_high }));
  const references = referenceSeries();
  const inView = policies.length ? policies : references;
  const oracle = references.filter((one) => one.key === "oracle");
  const costs = [...values([...policies, ...references.filter((one) => one.key !== "exits")], "x"), 1];
  return {
    label: `Accuracy against spend, ${trace().name}`,
    x: { domain: extent(costs, 0.1), title: `spent per input, share of ${wholeCost()}` },
    y: { domain: extent([...values(inView, "y", "low", "high"), ...values(oracle, "y"), full], 0.004),
      title: "right answers, %", write: (v, digits) => (100 * v).toFixed(digits) },
    series: [...references, ...policies],
    guides: (drawn) => [chosenBudget(drawn), known(full) ? level(drawn, full, `${trace().whole} ${percent(full)}`) : null],
  };
}

function gainSpec() {
  const policies = policySeries((p) => ({ x: p.budget, y: p.gain, low: p.gain_low, high: p.gain_high }));
  return {
    label: `Gain over ${data.reference} against budget, ${trace().name}`,
    x: { domain: budgetDomain(), title: `budget, share of ${wholeCost()}` },
    y: { domain: extent([...values(policies, "y", "low", "high"), 0], 0.002),
      title: `points of accuracy above ${data.reference}`, write: (v, digits) => points(v, digits) },
    series: policies,
    guides: (drawn) => [chosenBudget(drawn), level(drawn, 0, "")],
  };
}

function drawSpend() {
  const over = state.spend === "over";
  byId("spend-caption").textContent = over
    ? "Share of splits whose test part cost more per input than the budget. " + overAllowed()
    : "Mean cost per input over the budget. Above the line of 100\u00a0% is overspent, below it is left unused.";
  lineChart(byId("spend"), over ? overSpec() : meanSpec());
}

// A test part strays around the long run that a guarantee is about, so that more than delta of them may be over.
function overAllowed() {
  const { may_overspend: may } = trace();
  return known(may)
    ? `A policy certified with delta at ${share(data.delta)} may overspend on up to ${share(may)} of test parts this size: `
      + "the line. Single counts stray around it."
    : "No guarantee was asked for (--delta): the expected spend is within the budget, so by chance about half of the "
      + "splits are over it, by a little.";
}

const ratio = (value, budget) => (known(value) ? value / budget : null);

function meanSpec() {
  const policies = policySeries((p) => ({ x: p.budget, y: ratio(p.spend, p.budget),
    low: ratio(p.spend_low, p.budget), high: ratio(p.spend_high, p.budget) }));
  return {
    label: `Spend over budget against budget, ${trace().name}`,
    x: { domain: budgetDomain(), title: `budget, share of ${wholeCost()}` },
    y: { domain: extent([...values(policies, "y", "low", "high"), 1], 0.02),
      title: "spent, % of the budget", write: (v, digits) => (100 * v).toFixed(digits) },
    series: policies,
    guides: (drawn) => [
      svg("rect", { class: "over", x: drawn.inner.left, width: drawn.inner.right - drawn.inner.left,
        y: drawn.inner.top - 8, height: Math.max(0, drawn.y(1) - drawn.inner.top + 8) }),
      chosenBudget(drawn), level(drawn, 1, ""),
      svg("g", { class: "level" }, svg("text", { x: drawn.inner.left + 6, y: drawn.inner.top + 8, text: "over budget" }))],
  };
}

function overSpec() {
  const policies = policySeries((p) => ({ x: p.budget, y: overspentShare(p) }));
  const { may_overspend: may } = trace();
  return {
    label: `Share of splits over budget against budget, ${trace().name}`,
    x: { domain: budgetDomain(), title: `budget, share of ${wholeCost()}` },
    y: { domain: extent([...values(policies, "y"), 0, may, 0.1], 0.1),
      title: "splits over budget, %", write: (v, digits) => (100 * v).toFixed(digits) },
    series: policies,
    guides: (drawn) => [chosenBudget(drawn),
      known(may) ? level(drawn, may, `guarantee kept: up to ${share(may)}`) : null],
  };
}
