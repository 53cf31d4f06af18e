// Tables that sort by any column: a column is {key, title, text(row), value(row), first: 1 or -1}.
function sortedRows(rows, column, direction) {
  const of = (row) => column.value(row);
  return [...rows].sort((a, b) => {
    const [one, two] = [of(a), of(b)];
    if (!known(one) || !known(two)) return Number(known(two)) - Number(known(one));
    const order = typeof one === "string" ? one.localeCompare(two) : one - two;
    return direction * order;
  });
}

function drawTable(id, columns, rows, foot = []) {
  const [key, direction] = state.sort[id];
  const chosen = columns.find((column) => column.key === key);
  const head = columns.map((column) => headCell(id, column, column === chosen ? direction : 0));
  const body = sortedRows(rows, chosen, direction).map((row) =>
    html("tr", { "data-key": row.name }, ...columns.map((column) => bodyCell(column, row, rows))));
  const held = document.activeElement?.closest?.(`#${id} th`)?.dataset.column;
  byId(id).replaceChildren(html("table", {},
    html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...body),
    foot.length ? html("tfoot", {}, ...foot) : null));
  if (held) byId(id).querySelector(`th[data-column="${held}"] button`).focus();
}

function headCell(id, column, direction) {
  if (column.key === "picture") return html("td", { class: "picture" });
  const sort = () => {
    state.sort[id] = [column.key, direction ? -direction : column.first];
    drawTables();
    byId("status").textContent = `sorted by ${column.title}`;
  };
  const arrow = direction ? (direction > 0 ? "\u25b2" : "\u25bc") : "";
  return html("th", { scope: "col", "data-column": column.key, class: column.key === "name" ? "" : "number",
    "aria-sort": direction ? (direction > 0 ? "ascending" : "descending") : "none" },
  html("button", { type: "button", onclick: sort, title: column.hint ?? null },
    html("span", { text: column.title }),
    html("span", { class: "arrow", "aria-hidden": "true", text: arrow })));
}

// A name may break after its underscores, where room is short.
const nameCell = (name, mark) => html("th", { scope: "row", title: description(name) }, html("span", { class: "named" },
  mark ?? html("span", { class: "no-mark" }),
  html("span", {}, ...name.split(/(?<=_)/).flatMap((part) => [part, html("wbr")]))));

function bodyCell(column, row, rows) {
  if (column.key === "picture") return html("td", { class: "picture" }, whisker(row, column, rows));
  if (column.key === "name") return nameCell(row.name, swatch(markOf(row.name)));
  const range = column.range?.(row);
  return html("td", { class: "number", "data-column": column.key }, column.text(row),
    range ? html("span", { class: "range", text: range }) : null);
}

const named = { key: "name", title: "policy", value: (row) => row.name, first: 1 };
const numeric = (key, title, write, more = {}) =>
  ({ key, title, value: (row) => row[key], text: (row) => write(row[key]), first: -1, ...more });
const bare = (value) => (100 * value).toFixed(2);  // a percentage beside one that has its sign
const ranged = (low, high, write) => (row) => interval(row[low], row[high], write);
const picture = (middle) => ({ key: "picture", middle });
const over = { title: "over budget", value: overBudgetShare, text: overBudget, key: "over_budget", first: 1,
  hint: "splits whose test part cost more than the budget" };
const fitTime = numeric("fit_seconds", "time to fit", seconds, { first: 1 });

const gainRange = (row) =>
  (row.name === data.reference ? "reference" : interval(row.gain_low, row.gain_high, points));

// A gain and its interval on the scale of the policies that are on; beyond that scale an arrow points to it.
function whisker(row, { middle }, rows) {
  const [width, height] = [110, 16];
  if (!known(row[middle])) return null;
  const inView = rows.filter((other) => state.on.has(other.name));
  const all = inView.flatMap((other) => [other[middle], other.gain_low, other.gain_high]);
  const domain = extent([...all, 0], 0.002);
  const x = scale(domain, [6, width - 6]);
  const mark = markOf(row.name);
  const inside = (value) => near(Math.min(width, Math.max(0, x(value))));
  const drawn = svg("svg", {
    class: `whisker ${mark.tone}`, width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true",
  }, svg("line", { class: "zero", x1: near(x(0)), x2: near(x(0)), y1: 0, y2: height }));
  if (row[middle] < domain[0]) drawn.append(svg("path", { class: markClass(mark), d: "M6 4L1 8L6 12Z" }));
  else if (row[middle] > domain[1])
    drawn.append(svg("path", { class: markClass(mark), d: `M${width - 6} 4L${width - 1} 8L${width - 6} 12Z` }));
  else {
    const ends = known(row.gain_low) ? path([[inside(row.gain_low), 8], [inside(row.gain_high), 8]]) : "";
    const at = `translate(${near(x(row[middle]))} 8)`;
    drawn.append(svg("path", { class: "line", d: ends }),
      svg("path", { class: markClass(mark), d: mark.shape, transform: at }));
  }
  return drawn;
}

const POINT_COLUMNS = [
  named,
  numeric("accuracy", MEASURE, percent, { range: ranged("accuracy_low", "accuracy_high", bare) }),
  numeric("gain", "gain, points", points,
    { range: gainRange, hint: `over ${data.reference}, on the same splits` }),
  picture("gain"),
  numeric("mean_cost", "mean cost", percent, {
    range: ranged("mean_cost_low", "mean_cost_high", bare), hint: "mean cost per input, as a share like the budget" }),
  {
    key: "ratio", title: "of the budget", first: -1,
    value: (row) => ratio(row.mean_cost, row.budget), text: (row) => percent(ratio(row.mean_cost, row.budget), 1),
  },
  numeric("at_random", "shares at random", percent, {
    hint: `${MEASURE} of the same shares of inputs, drawn by lot` }),
  over, fitTime,
];

const OVERALL_COLUMNS = [
  named,
  numeric("mean_gain", "mean gain, points", points, { range: gainRange }),
  picture("mean_gain"),
  numeric("worst_gain", "worst gain", points, { hint: "the least gain at any trace and budget" }),
  numeric("mean_shortfall", "below the best", below, { first: 1, hint: "points, mean over traces and budgets" }),
  numeric("worst_shortfall", "at worst", below, { first: 1, hint: "points, at any trace and budget" }),
  over, fitTime,
];

function drawTables() {
  const q = budgetIndex();
  const { budgets, full_cost: full, unit } = trace();
  byId("table-caption").textContent = `${trace().name}, a budget of ${share(budgets[q])} of ${wholeCost()} `
    + `(${amount(budgets[q] * full, unit)} of ${amount(full, unit)} per input). Gain: points of ${MEASURE} above `
    + `${data.reference} on the same splits. Over budget: splits whose test part cost more than the budget. Time to fit: `
    + "making one policy, in processor time on one thread. Ranges: 95% intervals.";
  const rows = ordered.map((name) => trace().policies.find((policy) => policy.name === name)).filter(Boolean)
    .map((policy) => ({ ...policy.points[q], name: policy.name, fit_seconds: policy.fit_seconds }));
  drawTable("table", POINT_COLUMNS, rows, referenceRows(q));
  byId("overall-caption").textContent = `Means over ${count(data.traces.length, "trace")} and all budgets; worst gain `
    + "and at worst are those of a single trace and budget. Below the best: points below the best single policy of "
    + "each trace and budget; negative where auto beats all that it chooses among.";
  drawTable("overall", OVERALL_COLUMNS, data.overall.map((row) => ({ ...row, name: row.policy })));
}

function referenceRows(q) {
  const { oracle, mixture, full_accuracy: full } = trace();
  const row = (title, mark, point, cost) => point && html("tr", {},
    nameCell(title, mark && swatch(mark)),
    html("td", { class: "number" }, percent(point.accuracy),
      html("span", { class: "range", text: interval(point.accuracy_low, point.accuracy_high, bare) })),
    html("td"), html("td"), html("td", { class: "number", text: known(cost) ? percent(cost) : "" }),
    html("td"), html("td"), html("td"), html("td"));
  return [
    row("oracle", REFERENCE_MARKS.oracle, oracle[q], null),
    row(referenceName("mixture"), REFERENCE_MARKS.mixture, mixture[q], mixture[q]?.mean_cost),
    row(trace().whole, null, { accuracy: full.mean, accuracy_low: full.low, accuracy_high: full.high }, 1),
  ].filter(Boolean);
}
