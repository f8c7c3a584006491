// Stacked bars against time.

import { s } from "./dom.js";
import { niceTicks, TimeChart } from "./timechart.js";

const WIDEST = 28;

/**
 * Add a chart of items of which `read` gives {name: value}. `series` is [[class, label, name]] from the bottom up, or
 * a function that makes it of the items; the name is the class where it is left out. `write` turns a value into text,
 * `when` a time; `whole` where values are counts.
 */
export function stackChart(parent, { label, series, write, when, whole, read = (item) => item.parts, ...options }) {
  const all = (items) => (typeof series === "function" ? series(items) : series);
  const value = (item, [kind, , name]) => read(item)[name ?? kind] ?? 0;
  let shown = all([]);
  const total = (item) => shown.reduce((sum, one) => sum + value(item, one), 0);
  return new TimeChart(parent, {
    label,
    ...options,
    legend: (items) => {
      shown = all(items);
      return shown.length > 1 || typeof series === "function" ? shown.map(([kind, text]) => [kind, text]) : [];
    },
    ticks: (items) => niceTicks(Math.max(0, ...items.map(total)), write, whole),
    table: () => ["Time", ...shown.map(([, text]) => text), ...(shown.length > 1 ? ["All"] : [])],
    values: (item) => [...shown.map((one) => value(item, one)), ...(shown.length > 1 ? [total(item)] : [])],
    draw: (frame, items) => bars(frame, items, shown, value),
    describe: (item) => {
      const rows = shown.map((one) => [one[1], write(value(item, one)), one[0]]);
      if (shown.length > 1) rows.push(["All", write(total(item))]);
      return {
        title: when(item.time),
        rows: rows.filter(([, text], at) => at === rows.length - 1 || text !== write(0)),
      };
    },
  });
}

/** One path for each of the series: hundreds of elements would cost more than their drawing. */
function bars(frame, items, series, value) {
  const { band } = frame;
  const width = band < 6 ? band + 0.2 : Math.min(band * 0.7, WIDEST);
  const below = items.map(() => 0);
  return series.map((one) => {
    const parts = items.map((item, at) => {
      const part = value(item, one);
      if (!part) return "";
      const bottom = frame.y(below[at]);
      const height = Math.max(bottom - frame.y(below[at] + part), 0.5);
      below[at] += part;
      const left = frame.x(at) - width / 2;
      return `M${left.toFixed(1)} ${bottom.toFixed(1)}v${-height.toFixed(1)}h${width.toFixed(1)}v${height.toFixed(1)}z`;
    });
    return s("path", { class: `seg ${one[0]}`, d: parts.join("") || "M0 0" });
  });
}
