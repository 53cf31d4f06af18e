// What happens in the server, second by second, and its budget.
import { drawExits, drawTimes } from "./web/charts.js";
import { complain, follow } from "./web/connection.js";
import { request, send } from "./web/live.js";
import { amount, known, ms, NONE, percent, points, short } from "./web/numbers.js";

const KEPT = 600;
const PROBLEMS = ["degraded_per_s", "expired_per_s", "refused_per_s", "errors_per_s"];
const $ = (id) => document.getElementById(id);
const history = [];
const readBudget = async () => (await request("budget")).json();
let about = { policies: [], unit: "" };

const set = (id, text) => { $(id).textContent = text; };
const cost = (value, unit = about.unit) =>
  known(about.full_cost) && known(value) ? `${percent(value / about.full_cost)} (${amount(value, unit)})` : amount(value, unit);
const latency = (value) => (value >= 1000 ? ms(value) : short(Math.round(10 * value) / 10));  // beside an axis in ms

// -- the budget ------------------------------------------------------------------------------------------

function showBudget(changes) {
  about = { ...about, ...changes };
  const { policies } = about;
  set("model", about.model ?? "");
  document.title = `${about.model ?? "Exeunt"} \u00b7 Exeunt server`;
  $("warning").hidden = !about.warning;
  set("warning", about.warning ? `The budget may not be kept. Evaluation on the test part found: ${about.warning}` : "");
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
  const share = known(about.full_cost) ? percent(chosen.budget / about.full_cost) : amount(chosen.budget, about.unit);
  const small = document.createElement("small");
  small.textContent = `${amount(chosen.budget, about.unit)}${known(chosen.accuracy) ? `, accuracy ${percent(chosen.accuracy, 2)}` : ""}`;
  $("budget-value").replaceChildren(share, small);
  $("budget").setAttribute("aria-valuetext", `${share}, ${small.textContent}`);
}

$("budget").addEventListener("input", showPlace);
let wanted = null, changing = false;
$("budget").addEventListener("change", async () => {
  wanted = about.policies[$("budget").valueAsNumber].budget;
  if (changing) return;  // one request at a time: two could arrive in the wrong order
  changing = true;
  let changes = {};
  while (wanted !== null) {
    const budget = wanted;
    wanted = null;
    try {
      await send("PUT", "budget", { budget });
      complain(null);
    } catch (error) {
      complain(error);
    }
    changes = await readBudget().catch(() => ({}));
  }
  changing = false;
  showBudget(changes);
});

// -- what happens ----------------------------------------------------------------------------------------

const lost = (event) => (known(event.accuracy_without_load) && known(event.estimated_accuracy)
  ? Math.max(event.accuracy_without_load - event.estimated_accuracy, 0) : null);

function sentence(event) {
  if (!event.rows_per_s) return "No requests at the moment.";
  const loss = lost(event);
  const share = known(about.full_cost) ? `, at ${percent(event.mean_cost / about.full_cost)} of the full cost` : "";
  const answered = `${short(event.rows_per_s)} rows per second are answered${share}. Half of the requests take at most `
    + `${ms(event.latency_ms.p50)}, 99% at most ${ms(event.latency_ms.p99)}.`;
  if (!known(loss)) return answered;
  return `${answered} ${loss < 5e-5 ? "Load costs no accuracy." : `Load costs an estimated ${points(loss)} of accuracy.`}`;
}

function showNumbers(event) {
  set("lead", sentence(event));
  $("workers").hidden = !(about.workers > 1);
  set("workers", event.workers < about.workers
    ? `Only ${event.workers} of ${about.workers} workers answer: see the log of the server.`
    : `All ${about.workers} workers together.`);
  set("set-budget", cost(event.budget, event.unit));
  set("active-budget", cost(event.budget_active, event.unit));
  set("cost-now", cost(event.mean_cost, event.unit));
  set("accuracy-now", percent(event.estimated_accuracy, 2));
  set("lost-now", points(lost(event)));
  set("rows_waiting", short(event.rows_waiting));
  for (const name of PROBLEMS) {
    set(name, known(event[name]) ? `${short(event[name])} per second` : NONE);
    $(name).classList.toggle("problem", event[name] > 0);
  }
  set("controller", controllerSentence(event));
  for (const name of ["drift", "recalibrated"]) notice(name, Object.entries(event[name] ?? {}));
}

function notice(id, texts) {  // of each policy
  $(id).hidden = texts.length === 0;
  const text = texts.map(([policy, what]) => (about.policies.length > 1 ? `Policy ${policy}: ${what}` : what)).join(" ");
  if ($(id).textContent !== text) set(id, text);  // it is read out when it changes
}

function controllerSentence(event) {
  if (!known(about.slo_ms)) return "The budget does not depend on the load. Start the server with --slo-ms to lower it under load.";
  const lowered = event.policy !== event.policy_without_load;
  return `Target: ${percent(about.slo_quantile, 3)} of the answers within ${ms(about.slo_ms)}.`
    + (lowered ? " The controller has lowered the budget." : " The controller leaves the budget as it is.")
    + (event.expired_per_s > 0 ? " Rows past their deadline return the prediction of their latest exit." : "");
}

function showCharts(event) {
  const share = known(about.full_cost);
  const write = (value) => (share ? percent(value) : amount(value, event.unit));
  const of = (value) => (share && known(value) ? value / about.full_cost : value);
  drawTimes($("throughput"), history, { label: "rows answered per second", write: short, least: 1,
    series: [{ name: short(event.rows_per_s), tone: "tone-0", of: (e) => e.rows_per_s, area: true }] });
  drawTimes($("latency"), history, { label: "latency in milliseconds", write: (value) => ms(value), least: 1,
    target: about.slo_ms ?? null,
    series: [["p50", "tone-2"], ["p95", "tone-0"], ["p99", "tone-1"]].map(([name, tone]) => ({
      name: `${name} ${latency(event.latency_ms[name] ?? 0)}`, tone, of: (e) => e.latency_ms[name] })) });
  drawTimes($("cost"), history, { label: "mean cost and budget", write,
    series: [
      { name: "budget", tone: "tone-soft", of: (e) => of(e.budget_active), dashed: true },
      { name: "cost", tone: "tone-0", of: (e) => of(e.mean_cost), area: true }] });
  drawTimes($("lost"), history, { label: "points of accuracy lost", write: (value) => points(value, 1), least: 0.005,
    series: [{ name: points(lost(event)).replace("points", "pts"), tone: "tone-1", of: lost, area: true }] });
  drawTimes($("evidence"), history, { label: "evidence for drift", write: (value) => percent(value, 0), least: 1, target: 1, targetName: "alarm",
    series: [{ name: percent(event.drift_evidence, 0), tone: "tone-1", of: (e) => e.drift_evidence, area: true }] });
  drawExits($("exits"), event.exits_now ?? [], event.exits_plan ?? [], (i) => event.exit_names[i]);
}

function show(event) {
  history.push(event);
  if (history.length > KEPT) history.shift();
  const names = about.policies.map(({ name }) => name);
  if (`${event.policies ?? names}` !== `${names}` && !changing) readBudget().then(showBudget, () => {});  // of another run
  if (event.budget !== about.budget && !changing) showBudget({ budget: event.budget });
  showNumbers(event);
  showCharts(event);
}

let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (history.length) showCharts(history.at(-1)); }, 100);
});
follow({ begin: async () => showBudget(await readBudget()), show, needsKey: "The server needs an API key." });
