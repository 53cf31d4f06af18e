// What the page says of a gateway's state.
import { known, NONE, percent, points } from "./server/numbers.js";

export const REFERENCE = "reference";
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
  return `${value.toLocaleString("en", Math.abs(value) >= 1 ? cents : few)}${GAP}usd`;
}

export const whole = (value) => value.toLocaleString("en");
export const requests = (n, what = "request") => `${whole(n)} ${what}${n === 1 ? "" : "s"}`;
export const when = (seconds) => new Date(1000 * seconds).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
const since = ({ since: at }) => (at ? ` since ${when(at)}` : "");
const isReference = ({ policy }) => policy === REFERENCE;

export const title = (state) => (isReference(state) ? `${state.reference} answers` : `Policy ${state.policy} answers`);

export function lead(state) {
  const { reference, shadow, tally } = state;
  if (!isReference(state)) {
    const share = (tally.answered[reference] ?? 0) / tally.n;
    return tally.n ? `It has answered ${requests(tally.n)}${since(state)}, ${percent(share)} of them with ${reference}, the reference.`
      : "It has answered no requests yet.";
  }
  const all = `The reference answers everything: ${requests(tally.n)}${since(state)}.`;
  return shadow ? `${all} ${percent(shadow.share)} of the requests are compared with ${shadow.models.join(", ")}, in the shadow.`
    : `${all} It is compared with no other model.`;
}

export function fallen({ fallen_from: policy, reference, since: at }) {
  return policy ? `Policy ${policy} is no longer certified: ${reference} has answered${at ? ` since ${when(at)}` : ""}. The alarm is below.` : "";
}

export function promise(certificate, name, reference) {
  if (name === REFERENCE) return `Every request gets the answer of ${reference}.`;
  return certificate ?? "Nothing is certified of its quality.";
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
  const shares = tally.saved.map((value) => percent(value / (value + tally.cost)));
  return [usd(mean), `${shares[0]} of what ${reference} alone costs`,
    `95% interval: ${usd(low)} to ${usd(high)} (${shares[1]} to ${shares[2]}). ${spent}`];
}

/** Quality against the reference: [the number, what is beside it, what it means]. */
export function quality(state) {
  const { tally, reference } = state;
  if (isReference(state)) return [NONE, "", `${reference} is what quality is measured against.`];
  if (!tally.lost) return [NONE, "", tooFew(tally)];
  const [mean, low, high] = tally.lost;
  const sides = [-high, -low].map((value) => `${value > 0 ? "+" : ""}${points(value, 1)}`);
  return [points(Math.abs(mean), 1), `${mean < 0 ? "above" : "below"} ${reference}`,
    `95% interval: ${sides[0].replace("-", "\u2212")} to ${sides[1].replace("-", "\u2212")}, from ${requests(tally.audits, "audit")}.`];
}

/** Who answered, as bars, the most frequent first. */
export const answered = ({ tally }) => Object.entries(tally.answered).sort(([, a], [, b]) => b - a)
  .map(([name, n]) => ({ name, note: `${percent(n / tally.n)} (${whole(n)})`, share: n / tally.n }));

export const escalatedAbout = ({ tally }) => {
  const n = Object.values(tally.escalated).reduce((sum, one) => sum + one, 0);
  return n ? `For ${percent(n / tally.n)} of the answers further or other models were asked:`
    : "No answer needed a further or another model.";
};

export const escalated = ({ tally }) => Object.entries(REASONS).filter(([reason]) => tally.escalated[reason])
  .map(([reason, name]) => {
    const n = tally.escalated[reason];
    return { name, note: `${percent(n / tally.n)} (${whole(n)})`, share: n / tally.n };
  });

/** A limit as a bar. */
export function limit(name, { limit: text, most, spent, left }) {
  if (text === null) return { name, note: `${usd(spent)} spent, no limit` };
  const full = left <= 0.02 * most;
  return { name, note: `${usd(Math.max(left, 0))} left of ${text}; ${usd(spent)} spent`, share: most > 0 ? 1 - left / most : 1, full };
}

export const compared = ({ compared: counts }) => [["compared", counts.compared ?? 0],
  ...Object.entries(counts).filter(([what]) => what !== "compared").sort()];

export const records = ({ records: counts }) => [["shadow", counts.shadow], ["live", counts.live], ["audits", counts.audit]];

export function shadowAbout({ policy, shadow, reference }) {
  if (!shadow) return "The file of the gateway names no models to compare.";
  const models = shadow.models.join(", ");
  return policy === REFERENCE ? `${percent(shadow.share)} of the requests, with ${models}.`
    : `${percent(shadow.audit)} of the requests are audited: ${reference} answers them, too, and so do ${models}.`;
}

export const rests = ({ provider, for_s: seconds, models }) =>
  `${provider} rests after failures: ${models.join(", ")} ${models.length === 1 ? "is" : "are"} asked again in ${Math.ceil(seconds)}${GAP}s.`;
