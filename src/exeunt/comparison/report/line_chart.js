// A chart of lines: bands, lines, markers, labels at the right, a tooltip for the nearest marker.
// A series is {key, name, mark, points: [{x, y, low, high, left, right, tooltip}]}; y null: no such point.
const HOVER_PX = 40;

function lineChart(host, spec) {
  const labelled = host.clientWidth >= 620;
  const longest = widest(spec.series.map((series) => series.name), 12.5);
  const drawn = frame(host, spec, labelled ? Math.min(230, 34 + longest) : 14);
  const { root, clip } = drawn;
  const guides = svg("g", { "clip-path": clip, "aria-hidden": "true" }, ...spec.guides(drawn));
  root.append(guides);
  const banded = spec.series.filter((series) => !series.reference).length <= 5;
  root.append(svg("g", { "clip-path": clip, class: banded ? "" : "crowded", "aria-hidden": "true" },
    ...spec.series.map((series) => lineOf(series, drawn))));
  // Words lie over lines, which may run through them, and under marks, which they must not hide.
  root.append(svg("g", { class: "level", "aria-hidden": "true" }, ...guides.querySelectorAll("text")));
  const marks = spec.series.map((series) => series.points.map((point) => markAt(series, point, drawn)));
  root.append(svg("g", { "clip-path": clip }, ...spec.series.map((series, i) =>
    svg("g", { class: `series ${series.mark.tone}`, "data-key": series.key }, ...marks[i].filter(Boolean)))));
  if (labelled) root.append(labels(spec.series, drawn));
  walkable(marks);
  hoverable(root, marks.flat().filter(Boolean));
  host.replaceChildren(root);
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
  const group = svg("g", { class: `series ${series.mark.tone}${series.reference ? " reference" : ""}`, "data-key": series.key });
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

// Names at the right end of the lines, moved apart where they would overlap.
function labels(series, { x, y, inner }) {
  const gap = 16;
  const wanted = series.filter((one) => one.mark.dash !== null).flatMap((one) => {
    const last = one.points.filter((point) => known(point.y)).at(-1);
    return last ? [{ one, from: [x(last.x), y(last.y)], y: Math.min(inner.bottom, Math.max(inner.top, y(last.y))) }] : [];
  }).sort((a, b) => a.y - b.y);
  let floor = inner.top - gap;
  for (const label of wanted) floor = label.y = Math.max(label.y, floor + gap);
  let ceiling = inner.bottom + gap;
  for (const label of wanted.reverse()) ceiling = label.y = Math.min(label.y, ceiling - gap);
  return svg("g", { class: "labels", "aria-hidden": "true" }, ...wanted.map(({ one, from, y: at }) => {
    const start = Math.min(from[0] + 8, inner.right + 2);
    return svg("g", { class: `series ${one.mark.tone}`, "data-key": one.key },
      svg("path", { class: "leader", d: path([[start, from[1]], [inner.right + 14, at]]) }),
      svg("path", { class: markClass(one.mark), d: one.mark.shape, transform: `translate(${inner.right + 20} ${near(at)})` }),
      svg("text", { x: inner.right + 30, y: near(at + 4), text: one.name }));
  }));
}
