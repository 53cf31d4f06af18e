// What the page says of a gateway's state.
import { known, NONE, percent, points } from "./server/numbers.js";

export const REFERENCE = "reference";
const NEARLY_NONE = 0.02;
const GAP = "\u00a0";
const REASONS = {
  score: "The score of a model did not suffice",
  failure: "A model gave no answer",
  request: "A model of the policy does not take the request",
  money: "Money for a model was short",
};

/** US dollars, with cents from 1 on. */
export function usd(value) {
  if (!known(value)) return NONE;
  const cents = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  const few = { maximumSignificantDigits: 3, maximumFractionDigits: 9 };
  return `${value.toLocaleString("en", Math.abs(value) >= 1 ? cents : few).replace("-", "\u2212")}${GAP}usd`;
}

/** A share of all, which is not 0% where it is more than nothing. */
const shareOf = (n, all) => (n > 0 && n / all < 0.001 ? "under 0.1%" : percent(n / all));
export const whole = (value) => value.toLocaleString("en");
export const requests = (n, what = "request") => `${whole(n)} ${what}${n === 1 ? "" : "s"}`;
export const when = (seconds) => new Date(1000 * seconds).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
const since = ({ since: at }) => (at ? ` since ${when(at)}` : "");
const isReference = ({ policy }) => policy === REFERENCE;

const list = (names) => (names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names.join());

export const title = (state) => (isReference(state) ? "The reference answers" : `Policy ${state.policy} answers`);

export function lead(state) {
  const { reference, shadow, tally } = state;
  if (!isReference(state)) {
    const share = (tally.answered[reference] ?? 0) / tally.n;
    return tally.n ? `It has answered ${requests(tally.n)}${since(state)}, ${percent(share)} of them with ${reference}, the reference.`
      : "It has answered no requests yet.";
  }
  const all = `${reference} answers everything: ${requests(tally.n)}${since(state)}.`;
  return shadow ? `${all} ${percent(shadow.share)} of them are also sent to ${list(shadow.models)}, to compare the answers.`
    : `${all} It is compared with no other model.`;
}

export function fallen({ fallen_from: policy, reference, since: at }) {
  return policy ? `Policy ${policy} is no longer certified: ${reference} has answered${at ? ` since ${when(at)}` : ""}. The alarm is below.` : "";
}

export function promise(certificate, name, reference) {
  if (name === REFERENCE) return `Every request gets the answer of ${reference}.`;
  return certificate ?? "Nothing is certified of its quality.";
}

/** When the latest alarm of a policy was, if there was one. */
export function ended(alarms, name) {
  const alarm = alarms.findLast(({ policy }) => policy === name);
  return alarm ? `This no longer held at the alarm of ${when(alarm.time)}.` : "";
}

const tooFew = ({ audits, fewest }) =>
  `Too few audits yet for an interval: ${whole(audits)} of at least ${whole(fewest)}.`;

/** Money saved: [the number, what is beside it, what it means]. */
export function saved(state) {
  const { tally, reference } = state;
  if (isReference(state)) return [NONE, "", `Nothing is saved while ${reference} answers everything.`];
  const spent = `The policy has cost ${usd(tally.cost)}.`;
  if (!tally.saved) return [NONE, "", `${spent} ${tooFew(tally)}`];
  const [mean, low, high] = tally.saved;
  const [share, least, most] = tally.saved.map((value) => value / (value + tally.cost));
  return [usd(mean), `${percent(Math.abs(share))} ${share < 0 ? "more" : "less"} than ${reference} alone`,
    `95% interval: ${usd(low)} to ${usd(high)} (${percent(least)} to ${percent(most)}). ${spent}`];
}

/** Quality against the reference: [the number, what is beside it, what it means]. */
export function quality(state) {
  const { tally, reference } = state;
  if (isReference(state)) return [NONE, "", `${reference} is what quality is measured against.`];
  if (!tally.lost) return [NONE, "", tooFew(tally)];
  const [mean, low, high] = tally.lost;
  const side = (value) => (value < 0 ? "above" : "below");
  const [least, most] = (high < 0 ? [high, low] : [low, high]).map((value) => points(Math.abs(value), 1));
  const range = side(low) === side(high) ? `${least} to ${most} ${side(low)}` : `${least} above to ${most} below`;
  return [points(Math.abs(mean), 1), `${side(mean)} ${reference}`,
    `95% interval: ${range}, from ${requests(tally.audits, "audit")}.`];
}

export function watchAbout({ policy, evidence, fallen_from: fallenFrom }) {
  if (fallenFrom) return `Evidence that the certificate of policy ${fallenFrom} has ended, on a logarithmic scale, until the alarm at 100%.`;
  if (policy === REFERENCE) return "Nothing is watched while the reference answers everything.";
  return Object.keys(evidence).length
    ? "Evidence that the policy's certificate has ended, on a logarithmic scale. At 100% there is an alarm, and the reference answers from then on."
    : "Nothing of this policy can be watched.";
}

/** Who answered, as bars, the most frequent first. */
export const answered = ({ tally }) => Object.entries(tally.answered).sort(([, a], [, b]) => b - a)
  .map(([name, n]) => ({ name, note: `${shareOf(n, tally.n)} (${whole(n)})`, share: n / tally.n }));

export const escalatedAbout = ({ tally }) => {
  const n = Object.values(tally.escalated).reduce((sum, one) => sum + one, 0);
  return n ? `For ${shareOf(n, tally.n)} of the answers further or other models were asked:`
    : "No further or other models were asked.";
};

export const escalated = ({ tally }) => Object.entries(REASONS).filter(([reason]) => tally.escalated[reason])
  .map(([reason, name]) => {
    const n = tally.escalated[reason];
    return { name, note: `${shareOf(n, tally.n)} (${whole(n)})`, share: n / tally.n };
  });

/** A limit as a bar. */
export function limit(name, { limit: text, most, spent, left }) {
  if (text === null) return { name, note: `${usd(spent)} spent, no limit` };
  const rest = `${usd(Math.max(left, 0))} left of ${text}`;
  return { name, note: known(spent) ? `${rest}, ${usd(spent)} spent` : rest, share: most > 0 ? 1 - left / most : 1, full: left <= NEARLY_NONE * most };
}

export const compared = ({ compared: counts }) => [["compared", counts.compared ?? 0],
  ...Object.entries(counts).filter(([what]) => what !== "compared").sort()];

export const records = ({ records: counts }) => [["shadow", counts.shadow], ["live", counts.live], ["audits", counts.audit]];

export function shadowAbout({ policy, shadow, reference }) {
  if (!shadow) return "The file of the gateway names no models to compare.";
  return policy === REFERENCE ? `${percent(shadow.share)} of the requests are also sent to ${list(shadow.models)}.`
    : `${percent(shadow.audit)} of the requests are audited: ${list([reference, ...shadow.models])} all answer them.`;
}

export const rests = ({ provider, for_s: seconds, models }) =>
  `${provider} rests after failures: ${list(models)} ${models.length === 1 ? "is" : "are"} asked again in ${Math.ceil(seconds)}${GAP}s.`;

export const isStopped = (model) =>
  `${model} is stopped: it billed more than it may cost. Correct its price in the file, start the gateway again, then POST /admin/models/${model}/resume.`;
