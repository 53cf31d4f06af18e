// What the page says of a gateway's state.
import { known, NONE, percent, points } from "./web/numbers.js";

export const REFERENCE = "reference";
const NEARLY_NONE = 0.02, GAP = "\u00a0";
const REASONS = {
  score: "The score of a model did not suffice",
  failure: "A model gave no answer",
  money: "Money for a model was short",
  request: "A model of the policy does not take the request, or it may cost too much",
  unit: "A later request of its unit, or in none",
  client: "Its client is not compared",
};

/** US dollars, with cents from 1 on. */
export function usd(value) {
  if (!known(value)) return NONE;
  const cents = { minimumFractionDigits: 2, maximumFractionDigits: 2 }, few = { maximumSignificantDigits: 3, maximumFractionDigits: 9 };
  return `${value.toLocaleString("en", Math.abs(value) >= 1 ? cents : few)}${GAP}usd`;
}

/** A share of all, which is not 0% where it is more than nothing. */
const shareOf = (n, all) => (n > 0 && n / all < 0.001 ? "under 0.1%" : percent(n / all));
export const whole = (value) => value.toLocaleString("en");
export const requests = (n, what = "request") => `${whole(n)} ${what}${n === 1 ? "" : "s"}`;
export const when = (seconds) => new Date(1000 * seconds).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
const since = ({ since: at }) => (at ? ` since ${when(at)}` : "");
const isReference = ({ policy }) => policy === REFERENCE;
const list = (names) => (names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names.join());

/** An interval of sizes that lie on one of two sides of 0, or on both. */
function range(low, high, write, [under, over]) {
  const side = (value) => (value < 0 ? under : over);
  const [from, to] = (high < 0 ? [high, low] : [low, high]).map((value) => write(Math.abs(value)));
  return side(low) === side(high) ? `${from} to ${to} ${side(low)}` : `${from} ${side(low)} to ${to} ${side(high)}`;
}

export const title = (state) => (isReference(state) ? "The reference answers" : `Policy ${state.policy} answers`);
export function lead(state) {
  const { reference, bill: { requests: n, by_policy: own, answered: by }, unit, shadow } = state;
  const all = `${requests(n)}${since(state)}`;
  const others = shadow ? `To compare them, some ${unit}s are also sent to ${list(shadow.models)}.` : "It is compared with no other model.";
  if (isReference(state)) return `${reference} answers everything: ${all}. ${others}`;
  return n ? `Of ${all} the policy was asked for ${shareOf(own, n)}, and ${reference}, the reference, answered ${shareOf(by[reference] ?? 0, n)}.`
    : "There have been no requests yet.";
}

export const fallen = (state) => (state.fallen_from
  ? `Policy ${state.fallen_from} is no longer certified: ${state.reference} has answered${since(state)}. The alarm is below.` : "");

const byReference = (reference) => `Every request gets the answer of ${reference}.`;

/** Which requests the policy answers. */
export const rows = ({ policy, unit, reference, rows: n }) => (policy === REFERENCE ? byReference(reference)
  : unit === "request" ? "It answers requests one by one."
    : `It answers the first ${n === 1 ? "request" : requests(n)} of a ${unit}; ${reference} answers later ones.`);

/** What is certified of a policy. */
export const certified = (certificate, name, reference) =>
  (name === REFERENCE ? [byReference(reference)] : certificate ?? ["Nothing is certified of it now."]);

/** When a policy's certificate ended, if an alarm ended it. */
export function ended(alarms, name) {
  const alarm = alarms.findLast(({ policy, ends }) => ends && policy === name);
  return alarm ? `Its certificate ended at the alarm of ${when(alarm.time)}.` : "";
}

/** What the question is, what is certified, and what it takes to certify more. */
export function standing({ promise, policies, standing: notes }) {
  if (!promise) return notes;
  const names = Object.keys(policies).filter((name) => policies[name].certificate);
  const limits = [known(promise.max_loss) && `at most ${points(promise.max_loss, 1)} lost per request`,
    known(promise.max_early_loss) && `at most ${points(promise.max_early_loss, 1)} lost per request that is answered without the reference`,
    known(promise.max_early_worse) && `at most ${percent(promise.max_early_worse)} of these worse`,
    promise.max_tail?.length && `at most ${promise.max_tail[1]} of the requests above ${promise.max_tail[0]}`, promise.budget && `a cost of at most ${promise.budget}`];
  return [`To be certified, with probability ${percent(1 - promise.delta)}: ${list(limits.filter(Boolean))}.`,
    `${list(names) || "Nothing"} ${names.length > 1 ? "are" : "is"} certified now.`, ...notes];
}

const tooFew = ({ unit, bill: { audits, fewest } }) => audits < fewest
  ? `Too few audited ${unit}s yet for an interval: ${whole(audits)} of at least ${whole(fewest)}.`
  : `Too little of what the audited ${unit}s asked tells this yet.`;

/** Money saved since the policy answers: [the number, what is beside it, what it means]. */
export function saved(state) {
  const { bill, reference } = state;
  const spent = `comparisons, audits and judges have cost ${usd(bill.compared)}`;
  if (isReference(state)) return [NONE, "", `Nothing is saved while ${reference} answers everything: ${spent} since then.`];
  const paid = `since the policy answers, its requests have cost ${usd(bill.cost)}; ${spent}.`;
  if (!bill.saved) return [NONE, "", `${tooFew(state)} So far, ${paid}`];
  const [mean, low, high] = bill.saved, alone = mean + bill.cost + bill.compared;
  const interval = !bill.estimated ? "Nothing of this is estimated." : `95% interval: ${range(low, high, usd, ["lost", "saved"])}.`;
  return [`${usd(Math.abs(mean))} ${mean < 0 ? "lost" : "saved"}`, alone > 0 && `${percent(Math.abs(mean) / alone)} of ${reference}\u2019s cost`,
    `${interval} This is net: ${paid}`];
}

/** Quality against the reference: [the number, what is beside it, what it means]. */
export function quality(state) {
  const { bill, reference, unit } = state;
  if (isReference(state)) return [NONE, "", `${reference} is what quality is measured against.`];
  if (!bill.lost) return [NONE, "", tooFew(state)];
  const said = ([, low, high]) => range(low, high, (value) => points(value, 1), ["above", "below"]);
  const of = (mean) => [points(Math.abs(mean), 1), mean < 0 ? "above" : "below"], [size, side] = of(bill.lost[0]);
  const among = bill.lost_answered ? ` Where the policy answered: ${of(bill.lost_answered[0]).join(" ")} (${said(bill.lost_answered)}).` : "";
  return [size, `${side} ${reference}, per request`,
    `95% interval over all requests: ${said(bill.lost)}, from ${requests(bill.audits, `audited ${unit}`)}.${among}`];
}

/** Whether the measured loss agrees with the certified limit: what to say, "" where there are not both, and whether it is a problem. */
export function chance({ limit, bill: { lost } }) {
  if (!known(limit) || !lost) return ["", false];
  const below = `the certified limit of ${points(limit, 1)}`;
  if (lost[1] > limit) return [`Not within chance: the whole interval lies above ${below}.`, true];
  return [`Within chance: ${lost[0] > limit ? "the interval reaches down to" : "no more is lost than"} ${below}.`, false];
}

export function watchAbout({ policy, evidence, reference, fallen_from: fallenFrom }) {
  const changed = "requests or answers have changed since they were tested, on a logarithmic scale";
  if (fallenFrom) return `Evidence for policy ${fallenFrom} that ${changed}, until the alarm at 100%.`;
  if (policy === REFERENCE) return "Nothing is watched while the reference answers everything.";
  return Object.keys(evidence).length ? `Evidence that ${changed}. At 100% there is an alarm, and ${reference} answers from then on.`
    : "Nothing of this policy can be watched.";
}

const bar = (name, n, all) => ({ name, note: `${shareOf(n, all)} (${whole(n)})`, share: n / all });
/** Who answered, as bars, the most frequent first. */
export const answered = ({ bill }) => Object.entries(bill.answered).sort(([, a], [, b]) => b - a).map(([name, n]) => bar(name, n, bill.requests));

export const escalatedAbout = ({ bill }) => {
  const n = Object.values(bill.decided).reduce((sum, one) => sum + one, 0);
  return n ? `For ${shareOf(n, bill.requests)} of the requests the reference or further models were asked:` : "No further or other models were asked.";
};
export const escalated = ({ bill, unit }) => Object.entries(REASONS).filter(([reason]) => bill.decided[reason])
  .map(([reason, name]) => bar(name.replace("unit", unit), bill.decided[reason], bill.requests));

/** A limit as a bar. */
export function limit(name, { limit: text, most, spent, left, overdrawn, ends, near }) {
  if (text === null) return { name, note: `${usd(spent)} spent, no limit` };
  const until = known(ends) ? ` until ${when(ends)}` : "";
  const rest = overdrawn > 0 ? `nothing left of ${text}${until}, ${usd(overdrawn)} above it` : `${usd(left)} left of ${text}${until}${near ? ", nearly reached" : ""}`;
  return { name, note: known(spent) ? `${rest}, ${usd(spent)} spent` : rest, share: most > 0 ? 1 - left / most : 1, full: near || left <= NEARLY_NONE * most };
}

export const compared = ({ compared: { compared: n = 0, ...others } }) => [["compared", n], ...Object.entries(others).sort()];

/** What share of the units is compared, and what became of the latest ones. */
export function drawn(state) {
  const { unit, shadow, reference, drawing } = state;
  if (!shadow) return ["The file of the gateway names no models to compare."];
  const most = isReference(state) ? shadow.share : shadow.audit, share = drawing.probability ?? most;
  return [
    `${percent(share)} of the ${unit}s are compared now: ${list([...shadow.models, reference])} all answer them.`,
    share < 0.999 * most && `The file allows ${percent(most)}; each period has a share for which money lasts.`,
    drawing.units > 0 && `Of ${requests(drawing.units, unit)} since ${when(drawing.since)}, ${whole(drawing.chosen)} were chosen by lot, and ${whole(drawing.refused)} of these left out because money was not free.`,
    `${requests(drawing.open, unit)} ${drawing.open === 1 ? "is" : "are"} open.`,
  ].filter(Boolean);
}

/** What the numbers and the certificate do not cover. */
export function uncovered({ unit, shadow, reference, bill }) {
  const outside = bill.requests - bill.in_units, share = (n) => `${shareOf(n, bill.requests).replace("u", "U")} of the requests`;
  const late = unit === "user" ? "named no user, or came when their user's time was over" : `came when their ${unit} was over, or were in none`;
  const by = shadow?.opted_out === "policy" ? "the policy answers them, nobody knows how well" : `${reference} answers them`;
  const lines = [
    bill.opted_out > 0 && `${requests(bill.opted_out)} came from clients who are not compared: ${by}, and no other number counts them.`,
    outside > 0 && `${share(outside)} ${late}: ${reference} answers them.`,
    bill.refused > 0 && `${share(bill.refused)} could cost more than the cap, or one of the models does not take them: a policy that asks it leaves them to ${reference}.`,
    bill.guessed > 0 && `${share(bill.guessed)} hold an answer that was not given here, so that their ${unit} is a guess.`,
    bill.retries > 0 && `${share(bill.retries)} were retries, which count once in tests.`,
  ].filter(Boolean);
  return lines.length ? lines : ["Every request counts."];
}

export const rests = ({ name, why, for_s: seconds, models }) => {
  const when = seconds > 0 ? `asked again in ${Math.ceil(seconds)}${GAP}s` : "being tried now";
  if (!models.length) return `${name} rests after failures (${why}): it is ${when}. Other deployments of its model answer.`;
  return `${name} rests after failures (${why}): ${list(models)} ${models.length === 1 ? "is" : "are"} ${when}.`;
};
export const isStopped = (model) =>
  `${model} is stopped: it billed more than it may cost. Correct its price in the file, start the gateway again, then POST /admin/models/${model}/resume.`;
export const isDisputed = ([model, { bills, claimed, maximum }]) =>
  `${model} has billed ${usd(claimed)} for ${requests(bills)} that can cost ${usd(maximum)} at most. That much counts. The rest is disputed, so the provider may ask for more than the limits allow. Decide with exeunt gateway money FILE --book ${model} (the bill is right) or --drop ${model}, and --reason.`;
