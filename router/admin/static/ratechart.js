// Hit rates against time: available above predicted above delivered, and the gaps between them.

import { s } from "./dom.js";
import { count, percent } from "./format.js";
import { lineChart, place, runs } from "./linechart.js";

export const RATES = [
  ["delivered", "Delivered"],
  ["predicted", "Predicted"],
  ["available", "Available"],
];
const FLOORS = [0.8, 0.6, 0.4, 0.2, 0];

/** Add the chart to an element. */
export const rateChart = (parent, options) =>
  lineChart(parent, {
    ...options,
    label: "Hit rates over time",
    series: RATES,
    write: percent,
    ticks,
    extra: (item) => ["Requests", count(item.requests)],
    under: (frame, items) => [
      s("path", {
        class: "gap",
        d: runs(items, "delivered")
          .map((run) => between(frame, run, items))
          .join(""),
      }),
    ],
  });

/** What lies between available and delivered: cached somewhere, and computed again all the same. */
function between(frame, run, items) {
  const best = run.map(([at]) => [at, items[at].available]).toReversed();
  return run.length === 1 ? "" : `M${[...run, ...best].map(place(frame)).join("L")}Z`;
}

/** From the highest round floor that all rates stay above, so that the gaps can be seen. */
function ticks(items) {
  const lowest = Math.min(1, ...items.flatMap((item) => RATES.map(([name]) => item[name] ?? 1)));
  const floor = FLOORS.find((rate) => rate < lowest - 0.02) ?? 0;
  const step = floor >= 0.6 ? (1 - floor) / 4 : 0.2;
  return Array.from({ length: Math.round((1 - floor) / step) + 1 }, (_, at) => floor + at * step).map((rate) => [
    rate,
    percent(rate, 0),
  ]);
}
