// What the page says beside the charts: facts, settings, notes on reading it, the policies, the command.
function drawFacts() {
  byId("facts").textContent = [
    count(names.length, "policy", "policies"), count(data.traces.length, "trace"),
    count(data.splits, "split"), `gains over ${data.reference}`,
  ].join(" \u00b7 ");
}

function drawSettings() {
  const { name, n, parts, exits, one_exit: exit, whole, full_cost: full, unit } = trace();
  const each = Object.entries(parts).map(([part, size]) => `${size.toLocaleString("en")} to ${part}`);
  const pairs = [
    ["trace", `${name}, ${count(exits, exit)}, ${amount(full, unit)} per input by ${whole}`],
    ["inputs", `${n.toLocaleString("en")}, of which ${each.join(", ")}`],
    ["splits", `${data.splits}, drawn anew from seed ${data.seed}`],
    ["delta", known(data.delta)
      ? `${data.delta}: each policy's long-run mean cost is within the budget with probability ${share(1 - data.delta)}`
      : "none: the expected mean cost is within the budget, so by chance about half of the splits cost slightly more"],
    ["Exeunt", data.version],
  ];
  byId("settings").replaceChildren(
    ...pairs.flatMap(([term, text]) => [html("dt", { text: term }), html("dd", { text })]));
}

function drawNotes() {
  const exit = data.traces.every((one) => one.one_exit === "model") ? "model" : "exit";
  const notes = [
    "Every policy was fitted, calibrated and tested on the same three disjoint parts of the recorded outputs, "
      + "drawn anew for each split. Differences are therefore paired.",
    "Intervals are 95% t intervals over splits. The parts of different splits overlap, so they show how "
      + "this procedure varies on this recording, not what new data would give.",
    "The column over budget counts splits whose test part cost more than the budget. A certificate is about the mean cost of "
      + "the long run; the mean cost of a finite test part varies around it.",
    `The oracle knows how good each ${exit}'s answer is: no policy that answers with the prediction of a single ${exit} can `
      + `be better within the budget. A policy that averages the predictions of several ${exit}s can. A random mixture of two `
      + `${exit}s sends each input to one or the other at random; each ${exit} alone answers all inputs.`,
  ];
  byId("reading").replaceChildren(...notes.map((text) => html("li", { text })));
}

function drawAbout() {
  const listed = ordered.filter(description);
  byId("about").replaceChildren(...listed.map((name) => html("div", {},
    html("dt", {}, swatch(markOf(name)), html("span", { text: name })), html("dd", { text: description(name) }))));
  byId("about").closest(".about").hidden = !listed.length;
}

async function copyCommand() {
  const text = byId("command").textContent;
  let done = true;
  try { await navigator.clipboard.writeText(text); } catch {
    getSelection().selectAllChildren(byId("command"));
    done = document.execCommand("copy");
  }
  byId("copy").textContent = done ? "copied" : "select and copy";
  byId("status").textContent = done ? "command copied" : "the command could not be copied";
  setTimeout(() => { byId("copy").textContent = "copy"; }, 2000);
}
