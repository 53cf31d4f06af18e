// Charts of the last minutes, and the bars of exits. Text is always set as text, never read as markup.
import { known, percent } from "./numbers.js";

const SPAN_S = 180;
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (known(value) || typeof value === "string") node.setAttribute(name, value);
  }
  node.append(...children.filter(Boolean));
  return node;
}

const near = (value) => Math.round(value * 10) / 10;
const path = (pairs) => pairs.map(([x, y], i) => `${i ? "L" : "M"}${near(x)} ${near(y)}`).join("");

/** A round number at or above `value`, and its step: the top of an axis. */
function axis(value) {
  const rough = Math.max(value, 1e-9) / 4;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 2.5, 5, 10].find((factor) => factor * size >= rough * 0.999);
  return { step, top: step * Math.ceil(value / step - 1e-9) || step };
}

/** Draw lines over the last minutes. `series`: {name, tone, of: (event) => number, area}. Other options: those of `drawLines`. */
export function drawTimes(host, history, { series, ...options }) {
  const end = history.at(-1)?.t ?? 0;
  const seen = history.filter((event) => event.t >= end - SPAN_S);
  const at = (event) => 1 - (end - event.t) / SPAN_S;
  drawLines(host, { ...options, from: `${SPAN_S / 60} minutes ago`, to: "now",
    series: series.map(({ of, ...one }) => ({ ...one, points: seen.map((event) => [at(event), of(event)]) })) });
}

/** Draw lines. `series`: {name, tone, points: [[x, y]], area, dashed}, where x goes from 0 to 1, called `from` and `to`.
 * `target`: a level, or null; `targetName`. `least`: how far the axis goes at least. */
export function drawLines(host, { series, write, target = null, targetName = "target", label, least = 0, from, to }) {
  const width = Math.max(260, Math.floor(host.clientWidth)), height = 190;
  const inner = { left: 0, right: width - 62, top: 12, bottom: height - 24 };
  const values = series.flatMap(({ points }) => points.map(([, value]) => value)).filter(known);
  const { step, top } = axis(Math.max(least, target ?? 0, ...values));
  const x = (share) => inner.left + share * (inner.right - inner.left);
  const y = (value) => inner.bottom - (value / top) * (inner.bottom - inner.top);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  const ticks = [];  // over the lines
  for (let value = 0; value <= top * 1.001; value += step) {
    root.append(svg("line", { class: value ? "grid" : "base", x1: inner.left, x2: inner.right, y1: near(y(value)), y2: near(y(value)) }));
    if (value) ticks.push(svg("text", { class: "tick over", x: inner.left, y: near(y(value) - 4), text: write(value) }));
  }
  root.append(
    svg("text", { class: "tick", x: inner.left, y: height - 6, text: from }),
    svg("text", { class: "tick", x: inner.right, y: height - 6, "text-anchor": "end", text: to }));
  const labels = [];
  if (known(target)) {
    root.append(svg("line", { class: "target", x1: inner.left, x2: inner.right, y1: near(y(target)), y2: near(y(target)) }));
    labels.push({ name: targetName, tone: "tone-soft", y: y(target) });
  }
  for (const { name, tone, points, area, dashed } of series) {
    const pairs = points.filter(([, value]) => known(value)).map(([share, value]) => [x(share), y(value)]);
    if (!pairs.length) continue;
    const group = svg("g", { class: tone });
    if (area) group.append(svg("path", { class: "area", d: `${path(pairs)}L${near(pairs.at(-1)[0])} ${inner.bottom}L${near(pairs[0][0])} ${inner.bottom}Z` }));
    group.append(svg("path", { class: "line", d: path(pairs), "stroke-dasharray": dashed ? "4 3" : null }));
    root.append(group);
    labels.push({ name, tone, y: pairs.at(-1)[1] });
  }
  spread(labels, inner);
  root.append(...ticks, ...labels.map(({ name, tone, y: at }) =>
    svg("text", { class: `over ${tone}`, x: inner.right + 8, y: near(at + 4), text: name })));
  host.replaceChildren(root);
}

/** Move labels apart where they would overlap. */
function spread(labels, inner) {
  labels.sort((a, b) => a.y - b.y);
  let floor = inner.top - 15;
  for (const label of labels) floor = label.y = Math.max(label.y, floor + 15);
  let ceiling = inner.bottom + 15;
  for (const label of labels.reverse()) ceiling = label.y = Math.min(label.y, ceiling - 15);
}

/** Draw a bar per exit for `now` (shares), and a line across it for `plan`. */
export function drawExits(host, now, plan, names) {
  const width = Math.max(260, Math.floor(host.clientWidth));
  const shown = plan.map((_, i) => i).filter((i) => (now[i] ?? 0) > 0 || plan[i] > 0);
  const left = Math.min(190, 24 + 7 * Math.max(0, ...shown.map((i) => names(i).length)));
  const right = width - 118, pitch = 30;
  const x = (share) => left + share * (right - left);
  const height = pitch * Math.max(shown.length, 1) + 6;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "list" });
  shown.forEach((i, place) => {
    const y = 4 + place * pitch, share = now[i] ?? 0;
    root.append(svg("g", { role: "listitem", "aria-label": `${names(i)}: ${percent(share)} now, ${percent(plan[i])} planned`, "data-exit": i },
      svg("text", { x: left - 10, y: y + 15, "text-anchor": "end", text: names(i) }),
      svg("line", { class: "grid", x1: left, x2: right, y1: y + 22, y2: y + 22 }),
      svg("rect", { class: "bar", x: left, y, width: near(Math.max(x(share) - left, 0)), height: 20 }),
      svg("line", { class: "plan", x1: near(x(plan[i])), x2: near(x(plan[i])), y1: y - 3, y2: y + 23 }),
      svg("text", { class: "tick", x: width, y: y + 15, "text-anchor": "end", text: `${percent(share)} (${percent(plan[i])})` })));
  });
  host.replaceChildren(root);
}
