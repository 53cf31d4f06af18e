// What a gateway does, second by second.
import { drawBars, drawLoss, element } from "./bars.js";
import { showChoices } from "./control.js";
import { drawLines } from "./web/charts.js";
import { follow } from "./web/connection.js";
import { percent } from "./web/numbers.js";
import * as words from "./words.js";

const MOST_CLIENTS = 20;
const $ = (id) => document.getElementById(id);

function set(id, text) {  // what is read out is changed only where it differs
  if ($(id).textContent !== text) $(id).textContent = text;
}

function setFigure(id, [number, beside, about]) {
  $(id).replaceChildren(number, ...(beside ? [" ", element("small", "", beside)] : []));
  set(`${id}-about`, about);
}

function setLines(id, texts) {
  const lines = texts.map((text) => element("li", "", text));
  if ($(id).textContent !== texts.join("")) $(id).replaceChildren(...lines);
}

const setList = (id, pairs) => $(id).replaceChildren(...pairs.map(([name, n]) =>
  element("div", "", element("dt", "", name), element("dd", "", words.whole(n)))));

function showNumbers(state) {
  $("numbers").hidden = false;
  set("title", words.title(state));
  document.title = `${words.title(state)} \u00b7 Exeunt gateway`;
  set("lead", words.lead(state));
  set("fallen", words.fallen(state));
  $("fallen").hidden = !state.fallen_from;
  set("policy", state.policy);
  set("rows", words.rows(state));
  setLines("certificate", state.policy === words.REFERENCE ? [] : words.certified(state.certificate, state.policy));
  setLines("standing", words.standing(state));
  setFigure("saved", words.saved(state));
  set("in-all", state.in_all.told);
  setFigure("quality", words.quality(state));
  const [chance, isProblem] = words.chance(state);
  set("chance", chance);
  ["chance", "loss"].forEach((id) => $(id).classList.toggle("problem", isProblem));
  $("loss").hidden = !chance;
  if (chance) drawLoss($("loss"), state);
  set("feedback", state.feedback);
  set("answered-about", state.bill.requests ? "" : "No requests yet.");
  drawBars($("answered"), words.answered(state));
  set("escalated-about", words.escalatedAbout(state));
  drawBars($("escalated"), words.escalated(state));
  setLines("drawn", words.drawn(state));
  setList("compared", words.compared(state));
  setLines("uncovered", words.uncovered(state));
  const disputed = Object.entries(state.disputed);
  $("answering").hidden = state.resting.length + state.stopped.length + disputed.length > 0;
  $("stopped").replaceChildren(...[...disputed.map(words.isDisputed), ...state.stopped.map(words.isStopped)].map((one) => element("li", "problem", one)));
  $("resting").replaceChildren(...state.resting.map((one) => element("li", "problem", words.rests(one))));
}

function showMoney({ money }) {
  const limits = [["All requests", money.all], ...["day", "week", "month"].map((period) => [`Each ${period}`, money[period] && { ...money[period], spent: null }]), ["Comparisons", money.shadow]];
  drawBars($("limits"), limits.filter(([, one]) => one).map(([name, one]) => words.limit(name, one)));
  const clients = Object.entries(money.clients).sort(([, a], [, b]) => b.spent - a.spent);
  drawBars($("clients"), clients.slice(0, MOST_CLIENTS).map(([name, one]) => words.limit(name, one)));
  const more = clients.length - MOST_CLIENTS;
  $("more-clients").hidden = more <= 0;
  set("more-clients", `And ${words.requests(more, "client")} who spent less: see /admin/state.`);
}

function showWatch(state) {
  const seen = (kind) => state.evidence[kind]?.at(-1)[0] ?? 0;
  const kinds = [["exits", "requests", "tone-0", `${state.unit}s`], ["audits", "audits", "tone-1", "audits"]].filter(([kind]) => seen(kind));
  set("evidence-about", words.watchAbout(state));
  $("evidence").hidden = kinds.length === 0;
  if (kinds.length) {
    drawLines($("evidence"), {
      label: "evidence of a change since the certificate", write: (value) => percent(value, 0), least: 1, target: 1, targetName: "alarm",
      from: "0", to: kinds.map(([kind, , , units]) => `${words.whole(seen(kind))} ${units}`).join(", "),
      series: kinds.map(([kind, name, tone]) => ({ name, tone,
        points: state.evidence[kind].map(([n, level]) => [n / seen(kind), level]) })),
    });
  }
  const alarms = state.alarms.map(({ time }) => time);
  if (`${alarms}` === $("alarms").dataset.times) return;  // what is read by somebody stays as it is
  $("alarms").dataset.times = `${alarms}`;
  $("alarms").replaceChildren(...state.alarms.toReversed().map(({ time, policy, alarm }) =>
    element("li", "", element("time", "", `${words.when(time)}, policy ${policy}`), alarm)));
}

function show(state) {
  showNumbers(state);
  showMoney(state);
  showWatch(state);
  showChoices(state);
  latest = state;
}

let latest = null, resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (latest) showWatch(latest); }, 100);
});
follow({ show, needsKey: "This needs the key of who administers the gateway." });
