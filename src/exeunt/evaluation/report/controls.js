// Legend, trace, budget and views: what a reader sets, and drawing everything anew when it changes.
// Switches between two views of one chart, and the part of the state that each sets.
const VIEWS = [["frontier-view", "view"], ["cost-view", "cost"]];

function legendItem(key, name, mark, set, more, idle = false) {
  const on = set.has(key);
  const flip = () => { if (set.has(key)) set.delete(key); else set.add(key); draw(); };
  const entry = html("button",
    { type: "button", class: "entry", title: description(name), disabled: idle, "aria-pressed": String(on), onclick: flip },
    html("span", { class: "tick-box", "aria-hidden": "true" }), swatch(mark), html("span", { text: curveName(name) }));
  return html("li", {
    "data-key": key, class: on ? "on" : "off",
    onpointerenter: () => emphasise(key), onpointerleave: () => emphasise(null),
  }, entry, more);
}

function only(name) {
  return html("button", { type: "button", class: "only", "aria-label": `only ${name}`, text: "only",
    onclick: () => showOnly([name]) });
}

function showOnly(some) {
  state.on.clear();
  some.forEach((name) => state.on.add(name));
  draw();
}

function drawLegend() {
  const held = document.activeElement;
  const place = held?.closest?.("#legend li") && [held.closest("li").dataset.key, held.className];
  byId("policies").replaceChildren(...ordered.map((name) =>
    legendItem(name, name, markOf(name), state.on, only(name))));
  byId("references").replaceChildren(...REFERENCES.map((key) =>
    legendItem(key, referenceName(key), REFERENCE_MARKS[key], state.references, null, state.view === "gain")));
  byId("shown").textContent = `${state.on.size} of ${ordered.length} shown`;
  if (place) document.querySelector(`#legend li[data-key="${CSS.escape(place[0])}"] .${place[1]}`)?.focus();
}

function drawControls() {
  const { budgets, full_cost: full, unit } = trace();
  const q = budgetIndex();
  Object.assign(byId("budget"), { max: budgets.length - 1, value: q, disabled: budgets.length < 2 });
  byId("budget").setAttribute("aria-valuetext", `${share(budgets[q])} of ${wholeCost()}`);
  byId("budget-value").replaceChildren(
    html("strong", { text: share(budgets[q]) }), ` ${amount(budgets[q] * full, unit)}`);
  for (const [id, key] of VIEWS)
    for (const button of byId(id).children)
      button.setAttribute("aria-pressed", String(button.dataset.view === state[key]));
}

function draw() {
  hideTip();
  drawLegend();
  drawControls();
  drawCharts();
  drawTables();
  drawSettings();
}

function drawCharts() {
  drawFrontier();
  drawCost();
  drawRates();
}

function listenToControls() {
  byId("network").append(...data.traces.map(({ name }, i) => html("option", { value: i, text: name })));
  byId("network").closest("label").hidden = data.traces.length < 2;
  byId("network").addEventListener("change", (event) => {
    state.trace = Number(event.target.value);
    draw();
  });
  byId("budget").addEventListener("input", (event) => {
    state.budget = trace().budgets[event.target.value];
    draw();
  });
  for (const [id, key] of VIEWS)
    byId(id).addEventListener("click", (event) => {
      if (event.target.dataset.view) { state[key] = event.target.dataset.view; draw(); }
    });
  byId("command").closest(".command").hidden = !data.command;
  byId("show-some").addEventListener("click", () => showOnly(firstShown()));
  byId("show-all").addEventListener("click", () => showOnly(ordered));
  byId("show-none").addEventListener("click", () => showOnly([]));
  byId("copy").addEventListener("click", copyCommand);
}

// Charts are drawn to the width that they have; print and zoom scale them.
function redrawWhenResized() {
  let width = byId("frontier").clientWidth;
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now !== width) { width = now; hideTip(); drawCharts(); }
  }).observe(byId("frontier"));
}

byId("legend").open = matchMedia("(min-width: 900px)").matches;
listenToControls();
drawFacts();
drawNotes();
drawAbout();
draw();
redrawWhenResized();
