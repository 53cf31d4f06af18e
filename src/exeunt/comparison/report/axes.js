// Scales, ticks and axes.
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
