// Numbers, durations and times as they are written everywhere on the page.

const NONE = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const rounded = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const decimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const hour = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const second = new Intl.DateTimeFormat("en", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const date = new Intl.DateTimeFormat("en", { month: "short", day: "numeric" });

const absent = (value) => value === null || value === undefined || Number.isNaN(value);

/** 12,345 */
export const count = (value) => (absent(value) ? NONE : whole.format(value));

/** 12.3K: for where space is short */
export const compact = (value) =>
  absent(value) ? NONE : Math.abs(value) < 10_000 ? whole.format(value) : rounded.format(value);

/** 2.5 */
export const number = (value) =>
  absent(value)
    ? NONE
    : Math.abs(value) < 10
      ? fine.format(value)
      : Math.abs(value) < 1000
        ? decimal.format(value)
        : compact(value);

/** 0.876 as 87.6% */
export const percent = (rate, digits = 1) => {
  if (absent(rate)) return NONE;
  const shown = (rate * 100).toFixed(digits);
  return Number(shown) === 100 ? "100%" : `${shown}%`; // nobody needs 100.0%
};

/** A difference of two rates: +1.2 pts */
export const points = (difference) => {
  const shown = Math.abs(difference * 100).toFixed(1);
  return `${shown === "0.0" ? "±" : difference < 0 ? "−" : "+"}${shown} pts`;
};

/** 0.12 as 120 ms, 75 as 1 min 15 s */
export function duration(seconds) {
  if (absent(seconds)) return NONE;
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${fine.format(seconds * 1e6)} µs`;
  if (seconds < 0.01) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 1) return `${whole.format(seconds * 1e3)} ms`;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** Seconds in one figure and one unit: 39.6 min */
export function short(seconds) {
  if (absent(seconds) || seconds < 60) return duration(seconds);
  const [size, unit] = seconds < 3600 ? [60, "min"] : seconds < 172_800 ? [3600, "h"] : [86400, "days"];
  return `${number(seconds / size)} ${unit}`;
}

/** Milliseconds, as a duration. */
export const milliseconds = (value) => (absent(value) ? NONE : duration(value / 1000));

/** How long ago: now, 12 s, 3 min, 2 h */
export function age(seconds) {
  if (absent(seconds)) return NONE;
  if (seconds < 1) return "now";
  if (seconds < 90) return `${Math.floor(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

/** Seconds since 1970 as 14:05 */
export const hours = (time) => hour.format(time * 1000);

/** Seconds since 1970 as 14:05:07 */
export const clock = (time) => second.format(time * 1000);

/** Seconds since 1970 as Nov 22, 14:05:07; the date only when it is not today's */
export const moment = (time) => {
  const then = new Date(time * 1000);
  return then.toDateString() === new Date().toDateString()
    ? clock(time)
    : `${date.format(then)}, ${clock(time)}`;
};

/** 1 replica, 2 replicas */
export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
