// What the server does, second by second, and the budget that it may spend.
import { drawExits, drawTimes } from "./charts.js";
import { events, readBudget, Refused, useKey, writeBudget } from "./live.js";
import { amount, known, ms, NONE, percent, points, short } from "./numbers.js";

const KEPT = 600;
const AGAIN_MS = 1000;
const ODD = ["degraded_per_s", "expired_per_s", "refused_per_s", "errors_per_s"];
const $ = (id) => document.getElementById(id);
const history = [];
let about = { policies: [], unit: "" };

const set = (id, text) => { $(id).textContent = text; };
const cost = (value, unit = about.unit) =>
  known(about.full) && known(value) ? `${percent(value / about.full)} (${amount(value, unit)})` : amount(value, unit);
const latency = (value) => (value >= 1000 ? ms(value) : short(Math.round(10 * value) / 10));  // beside an axis in ms

function complain(error) {
  $("problem").hidden = !error;
  set("problem", error ? error.message : "");
  $("key-form").hidden = !(error instanceof Refused);
}

// -- the budget ------------------------------------------------------------------------------------------

function showBudget(found) {
  about = { ...about, ...found };
  const { policies } = about;
  set("model", about.model ?? "");
  document.title = `${about.model ?? "Exeunt"} \u00b7 Exeunt server`;
  $("workers").hidden = !(about.workers > 1);
  set("workers", `The server has ${about.workers} workers. This page shows what one of them does; /metrics adds all of them up.`);
  const slider = $("budget");
  slider.max = Math.max(policies.length - 1, 0);
  slider.disabled = policies.length < 2;
  const place = policies.findLastIndex(({ budget }) => budget <= about.budget * (1 + 1e-9));
  slider.value = Math.max(place, 0);
  showPlace();
}

function showPlace() {
  const chosen = about.policies[$("budget").valueAsNumber];
  if (!chosen) return;
  const share = known(about.full) ? percent(chosen.budget / about.full) : amount(chosen.budget, about.unit);
  const small = document.createElement("small");
  small.textContent = ` ${amount(chosen.budget, about.unit)}${known(chosen.accuracy) ? `, ${percent(chosen.accuracy, 2)} right` : ""}`;
  $("budget-value").replaceChildren(share, small);
  $("budget").setAttribute("aria-valuetext", `${share}${small.textContent}`);
}

$("budget").addEventListener("input", showPlace);
let wanted = null, changing = false;
$("budget").addEventListener("change", async () => {
  wanted = about.policies[$("budget").valueAsNumber].budget;
  if (changing) return;  // one request at a time: two could arrive in the wrong order
  changing = true;
  let found = {};
  while (wanted !== null) {
    const budget = wanted;
    wanted = null;
    try {
      await writeBudget(budget);
      complain(null);
    } catch (error) {
      complain(error);
    }
    found = await readBudget().catch(() => ({}));
  }
  changing = false;
  showBudget(found);
});

// -- what happens ----------------------------------------------------------------------------------------

const lost = (event) => (known(event.accuracy_most) && known(event.estimated_accuracy)
  ? Math.max(event.accuracy_most - event.estimated_accuracy, 0) : null);

function sentence(event) {
  if (!event.rows_per_s) return "Nothing is asked for at the moment.";
  const price = lost(event);
  const answered = `${short(event.rows_per_s)} rows a second are answered, half of the requests within `
    + `${ms(event.latency_ms.p50)} and 99 of 100 within ${ms(event.latency_ms.p99)}`;
  const spent = known(about.full) ? `, for ${percent(event.spend / about.full)} of what the full network costs` : "";
  if (!known(price)) return `${answered}${spent}.`;
  return `${answered}${spent}. ${price < 5e-5 ? "The load costs no accuracy." : `The load costs an estimated ${points(price)} of accuracy.`}`;
}

function showNumbers(event) {
  set("lead", sentence(event));
  set("in-force", cost(event.budget, event.unit));
  set("spend-now", cost(event.spend, event.unit));
  set("accuracy-now", percent(event.estimated_accuracy, 2));
  set("price-now", points(lost(event)));
  set("queue_rows", short(event.queue_rows));
  for (const name of ODD) {
    set(name, known(event[name]) ? `${short(event[name])} a second` : NONE);
    $(name).classList.toggle("odd", event[name] > 0);
  }
  set("controller", controllerSentence(event));
}

function controllerSentence(event) {
  if (!known(about.slo_ms)) return "The budget stays as it is whatever the load. Start the server with --slo-ms to lower it under load.";
  const lowered = event.policy !== event.policy_most;
  return `The controller aims at ${percent(about.slo_quantile, 3)} of the answers within ${ms(about.slo_ms)}`
    + (lowered ? ": it has lowered the budget" : ". It leaves the budget as it is")
    + (event.expired_per_s > 0 ? ", and rows whose time is up get what the exits so far have said." : ".");
}

function showCharts(event) {
  const share = known(about.full);
  const price = (value) => (share ? percent(value) : amount(value, event.unit));
  const of = (value) => (share && known(value) ? value / about.full : value);
  drawTimes($("throughput"), history, { label: "rows answered in a second", write: short, least: 1,
    series: [{ name: short(event.rows_per_s), tone: "tone-0", of: (e) => e.rows_per_s, area: true }] });
  drawTimes($("latency"), history, { label: "latency in milliseconds", write: (value) => ms(value), least: 1,
    asked: about.slo_ms ?? null,
    series: [["p50", "tone-2"], ["p95", "tone-0"], ["p99", "tone-1"]].map(([name, tone]) => ({
      name: `${name} ${latency(event.latency_ms[name] ?? 0)}`, tone, of: (e) => e.latency_ms[name] })) });
  drawTimes($("spend"), history, { label: "spend and budget", write: price,
    series: [
      { name: "budget", tone: "tone-soft", of: (e) => of(e.budget), dashed: true },
      { name: "spend", tone: "tone-0", of: (e) => of(e.spend), area: true }] });
  drawTimes($("price"), history, { label: "points of accuracy lost", write: (value) => points(value, 1), least: 0.005,
    series: [{ name: points(lost(event)).replace("points", "pts"), tone: "tone-1", of: lost, area: true }] });
  drawExits($("exits"), event.exits_now ?? [], event.exits_plan ?? [], (i) => event.exit_names[i]);
}

function show(event) {
  history.push(event);
  if (history.length > KEPT) history.shift();
  const names = about.policies.map(({ name }) => name);
  if (`${event.policies ?? names}` !== `${names}` && !changing) readBudget().then(showBudget, () => {});  // of another run
  if (known(event.budget_most) && event.budget_most !== about.budget && !changing) showBudget({ budget: event.budget_most });
  showNumbers(event);
  showCharts(event);
}

function state(word, name) {
  const place = $("state");
  if (place.textContent !== word) place.textContent = word;
  place.className = name;
}

async function follow() {
  for (;;) {
    try {
      showBudget(await readBudget());
      for await (const event of events()) {
        if ($("state").className !== "live") complain(null);
        state("live", "live");
        show(event);
      }
      throw new Error("The server has ended the connection.");
    } catch (error) {
      state(error instanceof Refused ? "locked" : "no connection", "lost");
      if (error instanceof Refused) complain(error);
      await new Promise((done) => { setTimeout(done, AGAIN_MS); });
    }
  }
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
});
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (history.length) showCharts(history.at(-1)); }, 100);
});
follow();
