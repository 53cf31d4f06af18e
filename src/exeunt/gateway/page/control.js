// Which policy answers: another one, or the one before. Both ask whether one is sure.
import { complain } from "./web/connection.js";
import { request, send } from "./web/live.js";
import { certified, ended, REFERENCE } from "./words.js";

const $ = (id) => document.getElementById(id);
let known = { policies: {}, reference: "", alarms: [] };

/** Ask whether one is sure, and do it. */
function ask({ what, about, yes, act }) {
  $("sure-what").textContent = what;
  $("sure-about").textContent = about;
  $("sure-yes").textContent = yes;
  $("sure-yes").onclick = async () => {
    $("sure").close();
    try {
      await act();
      complain(null);
    } catch (error) {
      complain(error);
    }
  };
  $("sure").showModal();
}

const named = (name) => (name === REFERENCE ? `the reference, ${known.reference},` : `policy ${name}`);

$("sure-no").addEventListener("click", () => $("sure").close());
$("choose").addEventListener("click", () => {
  const name = $("choice").value;
  ask({
    what: `Let ${named(name)} answer from now on?`,
    about: [...certified(known.policies[name]?.certificate, name, known.reference), ended(known.alarms, name)].join(" "),
    yes: "Change",
    act: () => send("PUT", "admin/policy", { policy: name }),
  });
});
$("roll-back").addEventListener("click", () => ask({
  what: "Undo the latest change of the policy?",
  about: "What answered before it answers again.",
  yes: "Roll back",
  act: () => request("admin/rollback", { method: "POST" }),
}));

/** Show which policies can be chosen. A choice that was made stays. */
export function showChoices({ policy, policies, reference, alarms }) {
  const names = [REFERENCE, ...Object.keys(policies)].filter((name) => name !== policy);
  const unfit = (name) => policies[name]?.unfit ?? "";
  const why = (name) => (unfit(name) ? " (cannot answer)" : policies[name].certificate ? "" : " (not certified now)");
  const texts = names.map((name) => (name === REFERENCE ? REFERENCE : `policy ${name}${why(name)}`));
  known = { policies, reference, alarms };
  $("controls").hidden = names.length === 0;
  $("no-policies").hidden = names.length > 0;
  if (`${texts}` === `${[...$("choice").options].map(({ text }) => text)}`) return;
  const chosen = $("choice").value;
  $("choice").replaceChildren(...names.map((name, i) => {
    const option = new Option(texts[i], name, false, name === chosen);
    option.disabled = Boolean(unfit(name));
    option.title = unfit(name);
    return option;
  }));
}
