// Stacked bars against time.

import { s } from "./dom.js";
import { niceTicks, TimeChart } from "./timechart.js";

const WIDEST = 28;

/**
 * Add a chart of items {time, parts: {name: value}}. `series` is [[name, label]] from the bottom up, the names being
 * classes with a colour; `write` turns a value into text, `when` a time.
 */
export function stackChart(parent, { label, series, write, when, height = 200 }) {
  const total = (item) => series.reduce((sum, [name]) => sum + (item.parts[name] ?? 0), 0);
  return new TimeChart(parent, {
    label,
    height,
    ticks: (items) => niceTicks(Math.max(0, ...items.map(total)), write),
    table: ["Time", ...series.map(([, text]) => text), ...(series.length > 1 ? ["All"] : [])],
    draw: (frame, items) => items.flatMap((item, at) => bars(frame, item, at, series)),
    describe: (item) => {
      const rows = series.map(([name, text]) => [text, write(item.parts[name] ?? 0), name]);
      if (series.length > 1) rows.push(["All", write(total(item))]);
      return {
        title: when(item.time),
        values: rows.map(([, value]) => value),
        rows: rows.filter(([, value], at) => at === rows.length - 1 || value !== write(0)),
      };
    },
  });
}

function bars(frame, item, at, series) {
  const width = Math.min(Math.max(frame.band - Math.min(6, frame.band * 0.3), 1), WIDEST);
  const left = frame.x(at) - width / 2;
  const parts = [];
  let below = 0;
  for (const [name] of series) {
    const value = item.parts[name] ?? 0;
    if (!value) continue;
    const top = frame.y(below + value);
    parts.push(
      s("rect", {
        class: `seg ${name}`,
        x: left,
        y: top,
        width,
        height: Math.max(frame.y(below) - top, 0.5),
      }),
    );
    below += value;
  }
  return parts;
}
