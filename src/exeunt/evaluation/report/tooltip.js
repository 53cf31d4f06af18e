// One tooltip for all charts, beside the mark that it is about.
const tip = byId("tip");
let tipTarget = null;

function hideTip() {
  tip.hidden = true;
  tipTarget = null;
  emphasise(null);
}

// `content`: {title, mark, rows: [[label, text], ...]}.
function showTip(target, content) {
  tip.replaceChildren(
    html("p", {}, content.mark ? swatch(content.mark) : null, html("strong", { text: content.title })),
    html("dl", {}, ...content.rows.flatMap(([label, text]) => [html("dt", { text: label }), html("dd", { text })])));
  tip.hidden = false;
  tipTarget = target;
  placeTip();
}

function placeTip() {
  const [at, box, gap] = [tipTarget.getBoundingClientRect(), tip.getBoundingClientRect(), 12];
  const wide = document.documentElement.clientWidth;
  const right = at.right + gap + box.width <= wide - 4;
  const left = right ? at.right + gap : Math.max(4, Math.min(at.left - gap - box.width, wide - box.width - 4));
  const above = at.top - box.height - gap;
  const top = above >= 4 ? above : at.bottom + gap;
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
}

const tooltipText = ({ title, rows }) => `${title}. ${rows.map(([label, text]) => `${label}: ${text}`).join(". ")}`;

// Brings one policy forward in all charts, the legend and the tables; null: none.
function emphasise(key) {
  document.body.classList.toggle("emphasis", key !== null);
  for (const part of document.querySelectorAll("[data-key]"))
    part.classList.toggle("hot", part.dataset.key === key);
}

addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
addEventListener("scroll", () => { if (tipTarget) placeTip(); }, { passive: true });
