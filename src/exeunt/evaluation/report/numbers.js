// Numbers as people read them. Shares come in [0, 1]; what does not exist is null and shows as a dash.
const NONE = "\u2013";
const GAP = "\u00a0";

const known = (value) => value !== null && value !== undefined;
const percent = (value, digits = 2) => (known(value) ? `${(100 * value).toFixed(digits)}%` : NONE);

// A budget or a cost, without digits that say nothing: 50%, 12.7%.
const share = (value) => (known(value) ? `${Number((100 * value).toFixed(1))}%` : NONE);

// A difference of accuracies, in points, always with its sign.
function points(value, digits = 2) {
  if (!known(value)) return NONE;
  const text = Math.abs(100 * value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? "\u2212" : "+") + text;
}

const below = (value) => (known(value) ? (100 * value).toFixed(2).replace("-", "\u2212") : NONE);
const interval = (low, high, write) => (known(low) && known(high) ? `${write(low)} to ${write(high)}` : "");
const withInterval = (value, low, high, write) => {
  const range = interval(low, high, write);
  return range ? `${write(value)} (${range})` : write(value);
};

function seconds(value) {
  if (!known(value)) return NONE;
  const ms = Number((1000 * value).toPrecision(2));  // 0.996 s is 1 s, not 1000 ms
  if (ms < 1000) return `${ms}${GAP}ms`;
  return `${value < 100 ? Number(value.toPrecision(2)) : Math.round(value)}${GAP}s`;
}

// 40.8 MMACs rather than 4.08e+07 MACs, and 0.1 usd per 1M rather than 1e-7 usd.
function amount(value, unit) {
  if (["usd", "cent"].includes(unit) && value > 0 && value < 1e-4) {
    return `${Number((1e6 * value).toPrecision(3))}${GAP}${unit} per 1M`;
  }
  const scales = unit === "MACs" ? [[1e9, "G"], [1e6, "M"], [1e3, "k"]] : [];
  const [size, prefix] = scales.find(([least]) => value >= least) ?? [1, ""];
  return `${Number((value / size).toPrecision(3))}${GAP}${prefix}${unit}`;
}

const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// Splits over the budget of those that could serve it; none could where a budget is infeasible.
const overBudget = (point) => (point.of ? `${point.over_budget} of ${point.of}` : NONE);
const overBudgetShare = (point) => (point.of ? point.over_budget / point.of : null);
