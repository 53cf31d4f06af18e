// Lists of bars. Text is always set as text, never read as markup.
import { known } from "./server/numbers.js";

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
