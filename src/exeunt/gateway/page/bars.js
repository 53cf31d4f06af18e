// Lists of bars, and one of a loss. Text is always set as text, never read as markup.
import { known, points } from "./web/numbers.js";

export function element(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** Draw a bar per entry: {name, note, share, full}. `share`: in [0, 1], null for no bar. `full`: it is a problem. */
export function drawBars(host, entries) {
  host.replaceChildren(...entries.map(({ name, note, share = null, full = false }) => {
    const row = element("li", "", element("span", "", name), element("span", full ? "note problem" : "note", note));
    if (known(share)) {
      const bar = element("div", full ? "problem" : "");
      bar.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
      const track = element("div", "track", bar);
      track.setAttribute("aria-hidden", "true");
      row.append(track);
    }
    return row;
  }));
}

/** Draw a certified `limit` and a measured loss, [mean, low, high], on one axis whose 0 is the reference. */
export function drawLoss(host, { limit, bill: { lost: [mean, low, high] } }) {
  const least = Math.min(0, low), span = Math.max(limit, high) - least || 1;
  const at = (value) => 3 + (94 * (value - least)) / span;  // percent
  const put = (kind, from, text = "") => {
    const node = element(text ? "span" : "div", kind, text);
    node.style.left = `${at(from)}%`;
    if (text) node.style.transform = `translateX(-${at(from)}%)`;  // never beyond the picture
    return node;
  };
  host.replaceChildren(put("zero", 0), put("limit", limit), put("interval", low), put("mean", mean), put("limit", limit, `certified limit: ${points(limit, 1)}`), put("mean", mean, `measured: ${points(Math.abs(mean), 1)}${mean < 0 ? " above" : ""}`),
    put("zero", 0, "as the reference"));
  host.querySelector(".interval").style.width = `${at(high) - at(low)}%`;
}
