// What the two charts of lines show: accuracy or gain against the mean cost, and the mean cost against the budget.
const SHADED = `Shaded: the 95% interval of ${names.includes(PRODUCT) ? `${PRODUCT}, or of ` : ""}the curve that you point at.`;
const TYPICAL = 0.5;  // of the cost: the accuracy axis starts where differences show at this budget

function pointTooltip(name, mark, point) {
  return { title: name, mark, rows: [
    ["budget", share(point.budget)],
    [MEASURE, withInterval(point.accuracy, point.accuracy_low, point.accuracy_high, percent)],
    ["gain", withInterval(point.gain, point.gain_low, point.gain_high, points)],
    ["mean cost", withInterval(point.mean_cost, point.mean_cost_low, point.mean_cost_high, percent)],
    ["same shares at random", percent(point.at_random)],
    ["over budget", `${overBudget(point)} splits`],
  ] };
}

// Series of the policies that are on; `place(point)` gives {x, y, low, high, ...}.
const policySeries = (place) => shownPolicies().map(({ name, points: all }) => {
  const mark = markOf(name);
  return { key: name, name: curveName(name), mark, points: all.map((point) =>
    ({ budget: point.budget, tooltip: pointTooltip(name, mark, point), ...place(point) })) };
});

function referenceSeries() {
  const { oracle, mixture, exit_points: exits } = trace();
  const found = {
    oracle: oracle.map((p) => [p.budget, p, [["budget", share(p.budget)]]]),
    mixture: mixture.map((p) => [p.mean_cost, p, [["budget", share(p.budget)], ["mean cost", share(p.mean_cost)]]]),
    exits: exits.map((p, j) => [p.cost, p, [[trace().one_exit, exitName(j)], ["cost", share(p.cost)]]]),
  };
  return REFERENCES.filter((key) => state.references.has(key)).map((key) => ({
    key, name: referenceName(key), mark: REFERENCE_MARKS[key],
    points: found[key].map(([x, p, rows]) => ({
      x, y: p.accuracy, low: p.accuracy_low, high: p.accuracy_high, budget: p.budget,
      tooltip: { title: referenceName(key), mark: REFERENCE_MARKS[key], rows: [
        ...rows, [MEASURE, withInterval(p.accuracy, p.accuracy_low, p.accuracy_high, percent)]] },
    })),
  }));
}

const chosenBudget = ({ x, inner }) => {
  const at = near(x(trace().budgets[budgetIndex()]));
  return svg("line", { class: "chosen", x1: at, x2: at, y1: inner.top - 6, y2: inner.bottom });
};

const values = (series, ...keys) => series.flatMap((one) => one.points.flatMap((p) => keys.map((key) => p[key])));
const budgetAxis = () => ({ domain: extent(trace().budgets, 0.1), title: `budget, share of ${wholeCost()}` });

function drawFrontier() {
  const gain = state.view === "gain";
  byId("frontier-caption").textContent = gain
    ? `Points of ${MEASURE} above ${data.reference} at the same budget, on the same splits. ${SHADED}`
    : `${MEASURE_FIRST} against the mean cost per input. Up and to the left is better. ${SHADED} The dotted upright line is the `
      + "chosen budget.";
  lineChart(byId("frontier"), gain ? gainSpec() : accuracySpec());
  if (!gain) byId("frontier-caption").append(outside());
}

// Says how many marks the axes leave out.
function outside() {
  const drawn = (key) => document.querySelectorAll(`#frontier [data-key="${CSS.escape(key)}"] .point`).length;
  const { exit_points: exits, one_exit: exit } = trace();
  const cut = shownPolicies().reduce((sum, { name, points: all }) =>
    sum + all.filter((point) => known(point.accuracy)).length - drawn(name), 0);
  const away = state.references.has("exits") ? exits.length - drawn("exits") : 0;
  const parts = [cut && `${count(cut, "point")} of policies`, away && `${count(away, exit)} alone`].filter(Boolean);
  return parts.length ? ` ${parts.join(" and ")} ${cut + away === 1 ? "lies" : "lie"} outside the chart.` : "";
}

// From a bit above the best curve down to where a typical budget's loss of accuracy takes a quarter of the height.
function accuracyDomain(series, oracle, full) {
  const all = values(series, "y", "low", "high").filter(known);
  if (!all.length) return extent([full, ...values(oracle, "y")], 0.004);
  const top = Math.max(...all, full ?? -Infinity);
  const at = trace().budgets[budgetIndex(TYPICAL)];
  const typical = series.flatMap((one) => one.points.filter((p) => p.budget === at && known(p.y)).map((p) => p.y));
  const least = typical.length ? top - Math.max(4 * (top - Math.max(...typical)), 0.02) : -Infinity;
  return extent([Math.max(Math.min(...all, full ?? Infinity), least), top, ...values(oracle, "y")], 0.004);
}

function accuracySpec() {
  const full = trace().full_accuracy.mean;
  const policies = policySeries((p) => ({ x: p.mean_cost, y: p.accuracy, low: p.accuracy_low, high: p.accuracy_high,
    left: p.mean_cost_low, right: p.mean_cost_high }));
  const references = referenceSeries();
  const oracle = references.filter((one) => one.key === "oracle");
  const curves = [...policies, ...references.filter((one) => one.key !== "exits")];
  return {
    label: `${MEASURE_FIRST} against mean cost, ${trace().name}`,
    x: { domain: extent([...values(curves, "x"), 1], 0.1), title: `mean cost per input, share of ${wholeCost()}` },
    y: { domain: accuracyDomain(policies.length ? policies : references, oracle, full),
      title: `${MEASURE}, %`, write: (v, digits) => (100 * v).toFixed(digits) },
    series: [...policies, ...references],
    levels: known(full) ? [{ value: full, text: `${trace().whole} ${percent(full)}` }] : [],
    guides: (drawn) => [chosenBudget(drawn)],
  };
}

function gainSpec() {
  const policies = policySeries((p) => ({ x: p.budget, y: p.gain, low: p.gain_low, high: p.gain_high }));
  return {
    label: `Gain over ${data.reference} against budget, ${trace().name}`,
    x: budgetAxis(),
    y: { domain: extent([...values(policies, "y", "low", "high"), 0], 0.002),
      title: `points of ${MEASURE} above ${data.reference}`, write: (v, digits) => points(v, digits) },
    series: policies, levels: [], guides: (drawn) => [chosenBudget(drawn)],
  };
}

function drawCost() {
  const over = state.cost === "over";
  byId("cost-caption").textContent = over
    ? "Share of splits whose test part cost more per input than the budget. " + overAllowed()
    : `Mean cost per input as a share of the budget: above 100% the budget is exceeded. ${SHADED}`;
  lineChart(byId("cost"), over ? overSpec() : meanSpec());
}

// The mean cost of a test part varies around the long run, so more than delta of the test parts may be over budget.
function overAllowed() {
  const { may_exceed: may } = trace();
  return known(may)
    ? `A policy certified with delta at ${share(data.delta)} may exceed the budget on up to ${share(may)} of test parts this size: `
      + "the line. Single counts vary around it."
    : "No guarantee was asked for (--delta): the expected mean cost is within the budget, so by chance about half of the "
      + "splits are over it, by a little.";
}

const ratio = (value, budget) => (known(value) ? value / budget : null);

function meanSpec() {
  const policies = policySeries((p) => ({ x: p.budget, y: ratio(p.mean_cost, p.budget),
    low: ratio(p.mean_cost_low, p.budget), high: ratio(p.mean_cost_high, p.budget) }));
  return {
    label: `Mean cost over budget against budget, ${trace().name}`,
    x: budgetAxis(),
    y: { domain: extent([...values(policies, "y", "low", "high"), 1], 0.02),
      title: "mean cost, % of the budget", write: (v, digits) => (100 * v).toFixed(digits) },
    series: policies, levels: [{ value: 1, text: "the budget" }],
    guides: (drawn) => [
      svg("rect", { class: "over", x: drawn.inner.left, width: drawn.inner.right - drawn.inner.left,
        y: drawn.inner.top - 8, height: Math.max(0, drawn.y(1) - drawn.inner.top + 8) }),
      chosenBudget(drawn)],
  };
}

function overSpec() {
  const policies = policySeries((p) => ({ x: p.budget, y: overBudgetShare(p) }));
  const { may_exceed: may } = trace();
  return {
    label: `Share of splits over budget against budget, ${trace().name}`,
    x: budgetAxis(),
    y: { domain: extent([...values(policies, "y"), 0, may, 0.1], 0.1),
      title: "splits over budget, %", write: (v, digits) => (100 * v).toFixed(digits) },
    series: policies, levels: known(may) ? [{ value: may, text: `guarantee kept: up to ${share(may)}` }] : [],
    guides: (drawn) => [chosenBudget(drawn)],
  };
}
