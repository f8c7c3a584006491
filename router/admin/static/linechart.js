// Lines against time.

import { s } from "./dom.js";
import { niceTicks, TimeChart } from "./timechart.js";

/**
 * Add a chart of items that have a number, or null, for each of `series`: [[name, label]], from the one that is drawn
 * last to the one that is drawn first. `write` turns a value into text; `under(frame, items)` draws below the lines.
 */
export function lineChart(parent, { series, write, when, ticks, under, extra, ...options }) {
  const top = (items) => Math.max(0, ...items.flatMap((item) => series.map(([name]) => item[name] ?? 0)));
  return new TimeChart(parent, {
    ...options,
    legend: series.map(([name, label]) => [`line ${name}`, label]),
    ticks: ticks ?? ((items) => niceTicks(top(items), write)),
    table: ["Time", ...series.map(([, label]) => label), ...(extra ? [extra({})[0]] : [])],
    values: (item) => [...series.map(([name]) => item[name]), ...(extra ? [extra(item)[1]] : [])],
    draw: (frame, items) => [
      ...(under?.(frame, items) ?? []),
      ...series.toReversed().map(([name]) =>
        s("path", {
          class: `curve ${name}`,
          d: runs(items, name)
            .map((run) => line(frame, run))
            .join(""),
        }),
      ),
    ],
    points: (frame, item, at) =>
      series
        .filter(([name]) => item[name] !== null)
        .map(([name]) =>
          s("circle", { class: `point ${name}`, cx: frame.x(at), cy: frame.y(item[name]), r: 4 }),
        ),
    describe: (item) => ({
      title: when(item.time),
      rows: [
        ...series.map(([name, label]) => [label, write(item[name]), `line ${name}`]),
        ...(extra ? [extra(item)] : []),
      ],
    }),
  });
}

/** Stretches without a hole: [[position, value], …]. Without traffic there is no rate. */
export function runs(items, name) {
  const found = [];
  let open = null;
  items.forEach((item, at) => {
    if (item[name] === null) open = null;
    else if (open) open.push([at, item[name]]);
    else found.push((open = [[at, item[name]]]));
  });
  return found;
}

export const place =
  (frame) =>
  ([at, value]) =>
    `${frame.x(at).toFixed(1)} ${frame.y(value).toFixed(1)}`;
// A single point becomes a line of no length: its round ends make it a dot.
const line = (frame, run) => `M${run.map(place(frame)).join("L")}${run.length === 1 ? "h0.01" : ""}`;
