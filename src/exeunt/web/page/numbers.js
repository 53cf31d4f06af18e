// Numbers as people read them. An unknown number is null and shows as a dash.
export const NONE = "\u2013";
const GAP = "\u00a0";

export const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
export const short = (value) => (known(value) ? (value >= 100 ? Math.round(value) : Number(value.toPrecision(3))).toLocaleString("en") : NONE);
export const percent = (value, digits = 1) => (known(value) ? `${Number((100 * value).toFixed(digits))}%` : NONE);

/** Milliseconds; at one second and more, seconds. */
export function ms(value) {
  if (!known(value)) return NONE;
  return value >= 1000 ? `${short(value / 1000)}${GAP}s` : `${short(value < 10 ? value : Math.round(value))}${GAP}ms`;
}

/** Accuracy that is lost, in points. */
export function points(value, digits = 2) {
  if (!known(value)) return NONE;
  const text = (100 * value).toFixed(digits);
  return `${text}${GAP}${Number(text) === 1 ? "point" : "points"}`;
}

/** 40.8 MMACs rather than 4.08e+07 MACs, and 0.1 usd per 1M rather than 1e-7 usd. */
export function amount(value, unit) {
  if (!known(value)) return NONE;
  if (["usd", "cent"].includes(unit) && value > 0 && value < 1e-4) {
    return `${Number((1e6 * value).toPrecision(3))}${GAP}${unit} per 1M`;
  }
  const scales = unit === "MACs" ? [[1e9, "G"], [1e6, "M"], [1e3, "k"]] : [];
  const [size, prefix] = scales.find(([least]) => value >= least) ?? [1, ""];
  return `${Number((value / size).toPrecision(3))}${GAP}${prefix}${unit}`;
}
