// Shares of the inputs that are answered at each exit, one bar per policy, from the first exit (pale) to the last (deep).
const RAMP = [[214, 232, 245], [110, 178, 222], [18, 116, 178], [9, 52, 92]];

function rampColour(position) {
  const place = position * (RAMP.length - 1);
  const i = Math.min(RAMP.length - 2, Math.floor(place));
  return RAMP[i].map((value, k) => Math.round(value + (place - i) * (RAMP[i + 1][k] - value)));
}

function exitLook(j, exits) {
  const position = exits > 1 ? j / (exits - 1) : 1;
  const colour = rampColour(position);
  return { fill: `rgb(${colour.join(" ")})`, ink: position < 0.45 ? "dark" : "pale" };
}

function drawRates() {
  const { exits, one_exit: exit, budgets } = trace();
  const q = budgetIndex();
  const host = byId("rates");
  const rows = shownPolicies();
  byId("rates-caption").textContent = `Share of inputs answered at each of the ${count(exits, exit)} at a budget of `
    + `${share(budgets[q])}, mean over splits. Numbers in the bars are ${exit}s, 0 is the `
    + `${isOfModels() ? "cheapest" : "first"}.`;
  const width = Math.max(280, Math.floor(host.clientWidth));
  const beside = width >= 620;
  const left = beside ? Math.min(230, 34 + widest(rows.map((p) => p.name), 13.5)) : 0;
  const [bar, pitch, top] = [24, beside ? 36 : 52, beside ? 58 : 52];
  const bottom = top + pitch * rows.length;
  const x = scale([0, 1], [left, width - 1]);
  const root = svg("svg", { viewBox: `0 0 ${width} ${bottom + 24}`, width, height: bottom + 24, role: "group",
    "aria-label": `Rates per ${exit} at a budget of ${share(budgets[q])}, ${trace().name}`, "aria-roledescription": "chart" });
  root.append(exitKey(x, exits));
  const segments = rows.map((policy, i) => {
    const y = top + pitch * i + (beside ? 0 : 20);
    const cells = barOf(policy, q, x, y, bar);
    root.append(svg("g", { class: `series rates ${markOf(policy.name).tone}`, "data-key": policy.name },
      rateName(policy.name, beside, y, bar), ...cells.filter(Boolean),
      cells.some(Boolean) ? null : svg("text", { class: "tick", x: x(0) + 4, y: y + 16, text: "cannot meet this budget" })));
    return cells;
  });
  root.append(svg("g", { class: "axis", "aria-hidden": "true" }, ...[0, 0.25, 0.5, 0.75, 1].map((value) =>
    svg("text", { class: "tick", x: x(value), y: bottom + 16, text: share(value),
      "text-anchor": value === 0 ? "start" : value === 1 ? "end" : "middle" }))));
  walkable(segments);
  host.replaceChildren(root);
}

function exitKey(x, exits) {
  const [start, room] = [x(0), Math.min(520, x(1) - x(0))];
  const named = isOfModels();  // names take more room than numbers
  const size = named ? room / exits : Math.min(room / exits, Math.max(16, 330 / exits));
  const say = (j) =>
    `${exitName(j, `exit ${j}`)}: ${share(trace().exit_points[j].cost)}${named ? "" : " of the cost"}`;
  const end = start + exits * size;
  const width = near(size - (size > 6 ? 1 : 0));
  return svg("g", { "aria-hidden": "true" },
    ...Array.from({ length: exits }, (_, j) => svg("rect", {
      x: near(start + j * size), y: 22, width, height: 12, fill: exitLook(j, exits).fill })),
    svg("text", { class: "tick", x: start, y: 14, text: say(0) }),
    exits > 1 ? svg("text", { class: "tick", x: end, y: 14, "text-anchor": "end", text: say(exits - 1) }) : null);
}

function rateName(name, beside, y, bar) {
  const middle = beside ? y + bar / 2 : y - 10;
  return svg("g", { "aria-hidden": "true" },
    svg("path", { class: markClass(markOf(name)), d: markOf(name).shape, transform: `translate(7 ${middle})` }),
    svg("text", { class: "name", x: 20, y: middle + 4.5, text: name }));
}

function barOf(policy, q, x, y, height) {
  const rates = policy.points[q].rates ?? [];
  let from = 0;
  return rates.map((rate, j) => {
    if (!known(rate) || rate <= 0) return null;
    const [start, end] = [x(from), x(from += rate)];
    return segment(policy, policy.points[q], j, { x: start, y, width: end - start, height });
  });
}

function segment(policy, point, j, box) {
  const exit = trace().exit_points[j];
  const look = exitLook(j, trace().exits);
  const tooltip = { title: policy.name, mark: markOf(policy.name), rows: [
    ["budget", share(point.budget)], [trace().one_exit, exitName(j)], ["answered here", percent(point.rates[j])],
    [isOfModels() ? "cost alone" : "cost here", `${share(exit.cost)} of ${wholeCost()}`],
    [`this ${trace().one_exit} alone`, MEASURE === "accuracy" ? `${percent(exit.accuracy)} right` : `${MEASURE} ${percent(exit.accuracy)}`]] };
  const number = String(j);
  const shown = Math.max(0.5, box.width - (box.width > 3 ? 1 : 0));  // a gap between neighbours
  const mark = svg("g", { class: "segment", role: "img", "aria-label": tooltipText(tooltip), "data-exit": j,
    onpointerenter: () => { emphasise(policy.name); showTip(mark, tooltip); }, onpointerleave: hideTip,
    onfocus: () => showTip(mark, tooltip), onblur: hideTip },
  svg("rect", { x: near(box.x), y: box.y, width: near(shown), height: box.height, fill: look.fill }),
  box.width < 8 + 7 * number.length ? null : svg("text", {
    class: look.ink, x: near(box.x + box.width / 2), y: box.y + box.height / 2 + 4, "text-anchor": "middle",
    text: number,
  }));
  return mark;
}
