// Numbers, durations and times as they are written everywhere on the page.

const NONE = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const rounded = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const decimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
let hour, second, date, zone;

/** Write times in UTC from now on, or in the browser's own time zone. */
export function writeTimesIn(utc) {
  const timeZone = utc ? "UTC" : undefined;
  const make = (parts) => new Intl.DateTimeFormat("en", { hourCycle: "h23", timeZone, ...parts });
  hour = make({ hour: "2-digit", minute: "2-digit" });
  second = make({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
  date = make({ month: "short", day: "numeric" });
  zone = utc ? "UTC" : "local";
}
writeTimesIn(false);

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

/** A round duration, as axes have it: 500 ms, 1.5 s */
export const roundDuration = (seconds) =>
  seconds >= 1 && seconds < 60 ? `${fine.format(seconds)} s` : duration(seconds);

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
export const moment = (time) =>
  date.format(time * 1000) === date.format(Date.now()) ? clock(time) : `${date.format(time * 1000)}, ${clock(time)}`;

const TICKS = [10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800];

/** Round times between two, at most so many: [[seconds since 1970, text]]. */
export function timeTicks(begin, end, most) {
  const step = TICKS.find((seconds) => (end - begin) / seconds <= most) ?? TICKS.at(-1);
  const ahead = zone === "UTC" ? 0 : -60 * new Date(end * 1000).getTimezoneOffset(); // midnight is local
  const write = step < 60 ? clock : step < 86_400 ? hours : (time) => date.format(time * 1000);
  const ticks = [];
  for (let time = Math.ceil((begin + ahead) / step) * step - ahead; time < end; time += step)
    ticks.push([time, write(time)]);
  return ticks;
}

/** 1 replica, 2 replicas */
export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** The time that cached tokens have saved: at least so much where the pace of some replicas was not known. */
export function savedTime({ saved_tokens: tokens, saved_seconds: seconds, priced_tokens: priced }) {
  if (tokens && !priced) return "unknown";
  return `${priced < 0.98 * tokens ? "at least " : ""}${short(seconds)}`;
}

/** How warm compares with cold, as far as there are enough of both. */
export function speedup({ warm, cold, speedup: times, enough }) {
  if (!times) {
    const missing = [
      [warm, "warm"],
      [cold, "cold"],
    ].filter(([{ count: there }]) => there < enough);
    const texts = missing.map(([{ count: there }, kind]) => `${count(enough - there)} more ${kind}`);
    return `Not compared: ${texts.join(" and ")} streams are needed.`;
  }
  const { ratio, low, high } = times;
  const interval = `95% interval ${number(low)} to ${number(high)}`;
  if (low <= 1 && high >= 1) return `No difference that these streams show (${interval}×).`;
  return ratio > 1
    ? `${number(ratio)}× faster in the median (${interval})`
    : `${number(1 / ratio)}× slower in the median (95% interval ${number(1 / high)} to ${number(1 / low)})`;
}
