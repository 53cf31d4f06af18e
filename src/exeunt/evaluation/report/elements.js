// Making elements. Text is always set as text, so that no name can be read as markup.
const byId = (id) => document.getElementById(id);
const SVG = byId("drawing").namespaceURI;

function withAttributes(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") node.textContent = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (known(value) && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter(Boolean));
  return node;
}

const html = (tag, attributes = {}, ...children) =>
  withAttributes(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  withAttributes(document.createElementNS(SVG, tag), attributes, children);

const near = (value) => Math.round(value * 10) / 10;
const path = (pairs) => pairs.map(([x, y], i) => `${i ? "L" : "M"}${near(x)} ${near(y)}`).join("");

// The widest of some texts, in px, as the charts write them.
const pen = document.createElement("canvas").getContext("2d");
function widest(texts, size) {
  pen.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
  return Math.max(0, ...texts.map((text) => pen.measureText(text).width));
}

// Arrow keys walk over the marks of a chart, which is one stop of the tab key: `rows` of marks, some empty.
function walkable(rows) {
  const all = rows.flat().filter(Boolean);
  if (!all.length) return;
  all.forEach((mark, i) => mark.setAttribute("tabindex", i ? -1 : 0));
  const enter = (mark) => {
    all.forEach((other) => other.setAttribute("tabindex", other === mark ? 0 : -1));
    mark.focus();
  };
  const step = (row, column, down, right) => {
    let [r, c] = [row + down, column + right];
    while (rows[r] && c >= 0 && c < rows[r].length && !rows[r][c]) [r, c] = [r + down, c + right];
    return rows[r]?.[c];
  };
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  rows.forEach((row, r) => row.forEach((mark, c) => mark?.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const next = step(r, c, ...move);
    if (next) enter(next);
  })));
}
