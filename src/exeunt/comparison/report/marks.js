// The look of a policy: colour, marker and line. The first six differ in all three; then the lines change,
// so that no two look the same, and none is known by its colour alone.
const MARKERS = {
  circle: "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0-8.4 0Z",
  square: "M-3.8-3.8h7.6v7.6h-7.6Z",
  triangle: "M0-5L4.8 3.6H-4.8Z",
  diamond: "M0-5.4L5.4 0L0 5.4L-5.4 0Z",
  down: "M0 5L4.8-3.6H-4.8Z",
  plus: "M-1.7-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3Z",
  star: "M0-5.8L1.6-1.9L5.7-1.7L2.5.9L3.6 4.9L0 2.6L-3.6 4.9L-2.5.9L-5.7-1.7L-1.6-1.9Z",
};
const SHAPES = Object.keys(MARKERS);
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const COLOURS = 6;

function markOf(name) {
  const i = ordered.indexOf(name);
  return {
    tone: `tone-${i % COLOURS}`,
    shape: MARKERS[SHAPES[i % SHAPES.length]],
    dash: DASHES[Math.floor(i / COLOURS) % DASHES.length],
  };
}

const REFERENCE_MARKS = {
  oracle: { tone: "tone-oracle", shape: "M-4 0h8", dash: "1 4", round: true },
  mixture: { tone: "tone-mixture", shape: "M-3-3L3 3M3-3L-3 3", dash: "3 3" },
  exits: { tone: "tone-exits", shape: "M0-4.5L4.5 0L0 4.5L-4.5 0Z", dash: null, hollow: true },
};

const markClass = (mark) => `mark ${mark.tone}${mark.hollow ? " hollow" : ""}`;

// A line with its marker, for legends, tables and labels.
function swatch(mark, width = 30) {
  return svg("svg", { class: `swatch ${mark.tone}`, width, height: 14, viewBox: `0 0 ${width} 14`, "aria-hidden": "true" },
    mark.dash === null ? null : svg("path", { class: "line", d: `M1 7H${width - 1}`, "stroke-dasharray": mark.dash }),
    svg("path", { class: markClass(mark), d: mark.shape, transform: `translate(${width / 2} 7)` }));
}
