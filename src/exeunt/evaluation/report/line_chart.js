// A chart of lines: axes, bands, lines, markers, labels beside the lines, a tooltip for the nearest marker.
// A series is {key, name, mark, points: [{x, y, low, high, left, right, tooltip}]}; y null: no such point.
const HOVER_PX = 40;
const WIDE_PX = 620;  // narrower charts have their labels below

// `spec`: {label, x, y, series, levels: [{value, text}], guides(drawn)}; levels are lines across the chart.
function lineChart(host, spec) {
  const beside = host.clientWidth >= WIDE_PX;
  const longest = widest([...spec.series.map((one) => one.name), ...spec.levels.map((one) => one.text)], 12.5);
  const drawn = frame(host, spec, beside ? Math.min(240, 44 + longest) : 14);
  const { root, clip, y, inner } = drawn;
  const levels = spec.levels.map(({ value }) => svg("line", {
    class: "level", x1: inner.left, x2: inner.right, y1: near(y(value)), y2: near(y(value)) }));
  const front = [...spec.series].reverse();  // the first is drawn last, over the others
  const marks = new Map(spec.series.map((one) => [one, one.points.map((point) => markAt(one, point, drawn))]));
  root.append(
    svg("g", { "clip-path": clip, "aria-hidden": "true" }, ...spec.guides(drawn), ...levels),
    svg("g", { "clip-path": clip, "aria-hidden": "true" }, ...front.map((one) => lineOf(one, drawn))),
    svg("g", { "clip-path": clip }, ...front.map((one) =>
      svg("g", { class: `series ${one.mark.tone}`, "data-key": one.key }, ...marks.get(one).filter(Boolean)))));
  if (beside) root.append(labels(spec, drawn));
  walkable([...marks.values()]);
  hoverable(root, [...marks.values()].flat().filter(Boolean));
  host.replaceChildren(root, beside ? "" : key(spec));
}

// The names of lines and levels, below a narrow chart.
function key({ series, levels }) {
  return html("ul", { class: "key", "aria-hidden": "true" },
    ...series.map((one) => html("li", { class: one.mark.tone, "data-key": one.key }, swatch(one.mark), one.name)),
    ...levels.map(({ text }) => html("li", {}, swatch({ tone: "tone-level", shape: "", dash: "" }), text)));
}

function extent(values, least) {
  const real = values.filter(known);
  let [low, high] = real.length ? [Math.min(...real), Math.max(...real)] : [0, 1];
  const pad = Math.max(0.05 * (high - low), (least - (high - low)) / 2);
  return [low - pad, high + pad];
}

function ticks([low, high], about) {
  const rough = (high - low) / about;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 2.5, 5, 10].find((factor) => factor * size >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const many = Math.floor(high / step + 1e-9) - first + 1;
  return { step, values: Array.from({ length: many }, (_, i) => (first + i) * step) };
}

const scale = ([low, high], [from, to]) => (value) => from + ((value - low) / (high - low)) * (to - from);

// Frame of a chart `width` px wide: {root, x, y, inner}; `spec` gives domains and what the axes are called.
function frame(host, spec, right) {
  const width = Math.max(280, Math.floor(host.clientWidth));
  const height = Math.round(Math.max(290, Math.min(440, width * 0.56)));
  const inner = { left: 46, right: width - right, top: 34, bottom: height - 46 };
  const x = scale(spec.x.domain, [inner.left, inner.right]);
  const y = scale(spec.y.domain, [inner.bottom, inner.top]);
  const root = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": spec.label,
    "aria-roledescription": "chart",
  });
  const clip = svg("clipPath", { id: `${host.id}-clip` }, svg("rect", {
    x: inner.left - 8, y: inner.top - 8, width: inner.right - inner.left + 16, height: inner.bottom - inner.top + 16,
  }));
  root.append(clip, yAxis(spec.y, y, inner), xAxis(spec.x, x, inner));
  return { root, x, y, inner, width, height, clip: `url(#${host.id}-clip)` };
}

function yAxis(axis, y, inner) {
  const { values, step } = ticks(axis.domain, 6);
  const whole = (size) => Math.abs(size - Math.round(size)) < 1e-6;
  const digits = [0, 1, 2, 3].find((d) => whole(step * 10 ** (d + 2))) ?? 4;
  return svg("g", { class: "axis", "aria-hidden": "true" },
    svg("text", { class: "title", x: 0, y: 14, text: axis.title }),
    ...values.flatMap((value) => [
      svg("line", { class: "grid", x1: inner.left, x2: inner.right, y1: near(y(value)), y2: near(y(value)) }),
      svg("text", { class: "tick", x: inner.left - 8, y: near(y(value) + 4), "text-anchor": "end", text: axis.write(value, digits) }),
    ]));
}

function xAxis(axis, x, inner) {
  const { values } = ticks(axis.domain, (inner.right - inner.left) / 68);
  return svg("g", { class: "axis", "aria-hidden": "true" },
    svg("line", { class: "base", x1: inner.left, x2: inner.right, y1: inner.bottom, y2: inner.bottom }),
    ...values.map((value) => svg("text", {
      class: "tick", x: near(x(value)), y: inner.bottom + 19, "text-anchor": "middle", text: share(value),
    })),
    svg("text", { class: "title", x: inner.right, y: inner.bottom + 40, "text-anchor": "end", text: axis.title }));
}

// Stretches of points without a gap.
function stretches(points) {
  const runs = [[]];
  for (const point of points) {
    if (known(point.y)) runs[runs.length - 1].push(point);
    else runs.push([]);
  }
  return runs.filter((run) => run.length);
}

function lineOf(series, { x, y }) {
  const group = svg("g", { class: `series ${series.mark.tone}`, "data-key": series.key });
  if (series.mark.dash === null) return group;
  for (const run of stretches(series.points)) {
    const sure = run.filter((point) => known(point.low) && known(point.high));
    const edge = [...sure.map((p) => [x(p.x), y(p.high)]), ...sure.reverse().map((p) => [x(p.x), y(p.low)])];
    if (edge.length > 2) group.append(svg("path", { class: "band", d: `${path(edge)}Z` }));
    group.append(svg("path", {
      class: "line", d: path(run.map((p) => [x(p.x), y(p.y)])), "stroke-dasharray": series.mark.dash,
      "stroke-linecap": series.mark.round ? "round" : null,
    }));
  }
  return group;
}

function markAt(series, point, { x, y, inner }) {
  if (!known(point.y)) return null;
  const [cx, cy] = [near(x(point.x)), near(y(point.y))];
  // An exit alone may lie far away: half a mark at the edge would say nothing.
  if (cx < inner.left || cx > inner.right || cy < inner.top || cy > inner.bottom) return null;
  const bars = [];
  if (known(point.low) && known(point.high)) bars.push([[cx, y(point.low)], [cx, y(point.high)]]);
  if (known(point.left) && known(point.right)) bars.push([[x(point.left), cy], [x(point.right), cy]]);
  const mark = svg("g", {
    class: "point", role: "img", "data-budget": point.budget, "aria-label": tooltipText(point.tooltip),
    onfocus: () => showMark(mark), onblur: hideTip,
  }, svg("path", { class: "bars", d: bars.map(path).join("") }),
  svg("path", { class: markClass(series.mark), d: series.mark.shape, transform: `translate(${cx} ${cy})` }));
  Object.assign(mark, { tooltip: point.tooltip, key: series.key, at: [cx, cy] });
  return mark;
}

function showMark(mark) {
  emphasise(mark.key);
  document.querySelectorAll(".point.pointed").forEach((other) => other.classList.remove("pointed"));
  mark.classList.add("pointed");
  showTip(mark.lastChild, mark.tooltip);
}

// The tooltip is of the nearest marker: a finger or a pointer need not hit it.
function hoverable(root, marks) {
  const find = (event) => {
    const box = root.getBoundingClientRect();
    const zoom = box.width / root.viewBox.baseVal.width;
    const at = [(event.clientX - box.left) / zoom, (event.clientY - box.top) / zoom];
    const away = marks.map((mark) => Math.hypot(mark.at[0] - at[0], mark.at[1] - at[1]));
    const best = Math.min(...away);
    if (best <= HOVER_PX) showMark(marks[away.indexOf(best)]);
    else hideTip();
  };
  root.addEventListener("pointermove", find);
  root.addEventListener("pointerdown", find);
  root.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hideTip(); });
}

// Names at the right end of lines and levels, moved apart where they would overlap.
function labels({ series, levels }, { x, y, inner }) {
  const gap = 16;
  const lines = series.filter((one) => one.mark.dash !== null).flatMap((one) => {
    const last = one.points.filter((point) => known(point.y)).at(-1);
    return last ? [{ text: one.name, mark: one.mark, key: one.key, from: [x(last.x), y(last.y)] }] : [];
  });
  const wanted = [...lines, ...levels.map(({ value, text }) => ({ text, from: [inner.right, y(value)] }))];
  for (const label of wanted) {
    label.from[1] = Math.min(inner.bottom, Math.max(inner.top, label.from[1]));
    label.y = label.from[1];
  }
  wanted.sort((a, b) => a.y - b.y);
  let floor = inner.top - gap;
  for (const label of wanted) floor = label.y = Math.max(label.y, floor + gap);
  let ceiling = inner.bottom + gap;
  for (const label of wanted.reverse()) ceiling = label.y = Math.min(label.y, ceiling - gap);
  return svg("g", { class: "labels", "aria-hidden": "true" }, ...wanted.map(({ text, mark, key: of, from, y: at }) => {
    const start = Math.min(from[0] + 8, inner.right + 2);
    return svg("g", { class: `series ${mark ? mark.tone : "tone-level"}`, "data-key": of ?? null },
      svg("path", { class: "leader", d: path([[start, from[1]], [inner.right + 14, at]]) }),
      mark ? svg("path", { class: markClass(mark), d: mark.shape, transform: `translate(${inner.right + 20} ${near(at)})` })
        : null,
      svg("text", { x: inner.right + (mark ? 30 : 18), y: near(at + 4), text }));
  }));
}
