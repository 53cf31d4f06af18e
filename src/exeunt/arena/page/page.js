// Switches between two views of one chart, and the part of the state that each turns.
const VIEWS = [["frontier-view", "view"], ["spend-view", "spend"]];

// Controls, and drawing it all anew when they change.
function legendItem(key, name, mark, set, more, idle = false) {
  const on = set.has(key);
  const flip = () => { if (set.has(key)) set.delete(key); else set.add(key); draw(); };
  const entry = html("button",
    { type: "button", class: "entry", title: about(name), disabled: idle, "aria-pressed": String(on), onclick: flip },
    html("span", { class: "tick-box", "aria-hidden": "true" }), swatch(mark), html("span", { text: name }));
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
  byId("references").replaceChildren(...Object.entries(REFERENCES).map(([key, name]) =>
    legendItem(key, name, REFERENCE_MARKS[key], state.references, null, state.view === "gain")));
  byId("shown").textContent = `${state.on.size} of ${ordered.length} shown`;
  if (place) document.querySelector(`#legend li[data-key="${CSS.escape(place[0])}"] .${place[1]}`)?.focus();
}

function drawControls() {
  const { budgets, full_cost: full, unit } = trace();
  const q = budgetIndex();
  Object.assign(byId("budget"), { max: budgets.length - 1, value: q, disabled: budgets.length < 2 });
  byId("budget").setAttribute("aria-valuetext", `${share(budgets[q])} of the full network's cost`);
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
  drawSpend();
  drawRates();
}

function drawFacts() {
  byId("facts").textContent = [
    count(names.length, "policy", "policies"), count(data.traces.length, "trace"),
    count(data.splits, "split"), `gains over ${data.reference}`,
  ].join(" \u00b7 ");
}

function drawSettings() {
  const { name, n, parts, exits, full_cost: full, unit } = trace();
  const each = Object.entries(parts).map(([part, size]) => `${size.toLocaleString("en")} to ${part}`);
  const pairs = [
    ["trace", `${name}, ${count(exits, "exit")}, ${amount(full, unit)} per input in full`],
    ["inputs", `${n.toLocaleString("en")}, of which ${each.join(", ")}`],
    ["splits", `${data.splits}, drawn anew from seed ${data.seed}`],
    ["delta", known(data.delta)
      ? `${data.delta}: each policy's long-run mean cost is within the budget with probability ${share(1 - data.delta)}`
      : "none: the expected spend is within the budget, so nearly half of all splits spend slightly more"],
    ["Exeunt", data.version],
  ];
  byId("settings").replaceChildren(
    ...pairs.flatMap(([term, text]) => [html("dt", { text: term }), html("dd", { text })]));
}

function drawReading() {
  const notes = [
    "Every policy was fitted, calibrated and tested on the same three disjoint parts of the recorded outputs, "
      + "drawn anew for each split. Differences are therefore paired.",
    "Intervals are 95\u00a0% t intervals over splits. The parts of different splits overlap, so they tell how "
      + "this procedure varies on this recording, not what new data would give.",
    "Overspent counts splits whose test part cost more than the budget. A certificate is about the mean cost of "
      + "the long run; the cost of a finite test part strays around it.",
    "The oracle is the accuracy that no policy can exceed within the budget: it knows which exits are right. "
      + "A mixture of two exits sends inputs to one or the other by lot; an exit alone answers all of them.",
  ];
  byId("reading").replaceChildren(...notes.map((text) => html("li", { text })));
}

function drawAbout() {
  const told = ordered.filter(about);
  byId("about").replaceChildren(...told.map((name) => html("div", {},
    html("dt", {}, swatch(markOf(name)), html("span", { text: name })), html("dd", { text: about(name) }))));
  byId("about").closest(".about").hidden = !told.length;
}

async function copyCommand() {
  const text = byId("command").textContent;
  let done = true;
  try { await navigator.clipboard.writeText(text); } catch {
    getSelection().selectAllChildren(byId("command"));
    done = document.execCommand("copy");
  }
  byId("copy").textContent = done ? "copied" : "select and copy";
  byId("said").textContent = done ? "command copied" : "the command could not be copied";
  setTimeout(() => { byId("copy").textContent = "copy"; }, 2000);
}

function listen() {
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
function follow() {
  let width = byId("frontier").clientWidth;
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now !== width) { width = now; hideTip(); drawCharts(); }
  }).observe(byId("frontier"));
}

byId("legend").open = matchMedia("(min-width: 900px)").matches;
listen();
drawFacts();
drawReading();
drawAbout();
draw();
follow();
