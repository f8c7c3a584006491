// Hit rates against time: available above predicted above delivered, and the gaps between them.

import { s } from "./dom.js";
import { clock, count, percent } from "./format.js";
import { rates } from "./history.js";
import { TimeChart } from "./timechart.js";

export const RATES = [
  ["delivered", "Delivered"],
  ["predicted", "Predicted"],
  ["available", "Available"],
];
const FLOORS = [0.75, 0.5, 0.25, 0];

/** Add the chart to an element. Its `show` takes groups of `History.groups`. */
export function rateChart(parent) {
  const chart = new TimeChart(parent, {
    label: "Hit rates over time",
    height: 260,
    ticks,
    table: ["Time", "Delivered", "Predicted", "Available", "Requests"],
    draw: (frame, items) => [
      s("path", {
        class: "gap",
        d: runs(items, "delivered")
          .map((run) => between(frame, run, items))
          .join(""),
      }),
      ...RATES.toReversed().map(([name]) =>
        s("path", {
          class: `curve ${name}`,
          d: runs(items, name)
            .map((run) => line(frame, run))
            .join(""),
        }),
      ),
    ],
    points: (frame, item, at) =>
      RATES.filter(([name]) => item[name] !== null).map(([name]) =>
        s("circle", { class: `point ${name}`, cx: frame.x(at), cy: frame.y(item[name]), r: 5 }),
      ),
    describe: (item) => ({
      title: clock(item.time),
      rows: [
        ...RATES.map(([name, label]) => [label, percent(item[name]), `line ${name}`]),
        ["Requests", count(item.requests)],
      ],
    }),
  });
  return {
    show: (groups) =>
      chart.show(
        groups.map((group) => ({ time: group.time, requests: group.fleet[0], ...rates(group.fleet) })),
      ),
  };
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

const place =
  (frame) =>
  ([at, value]) =>
    `${frame.x(at).toFixed(1)} ${frame.y(value).toFixed(1)}`;
// A single point becomes a line of no length: its round ends make it a dot.
const line = (frame, run) => `M${run.map(place(frame)).join("L")}${run.length === 1 ? "h0.01" : ""}`;

/** What lies between available and delivered: cached somewhere, and computed again all the same. */
function between(frame, run, items) {
  const best = run.map(([at]) => [at, items[at].available]).toReversed();
  return run.length === 1 ? "" : `M${[...run, ...best].map(place(frame)).join("L")}Z`;
}

/** From the highest round floor that all rates stay above, so that the gaps can be seen. */
function ticks(items) {
  const lowest = Math.min(1, ...items.flatMap((item) => RATES.map(([name]) => item[name] ?? 1)));
  const floor = FLOORS.find((rate) => rate < lowest - 0.02) ?? 0;
  return Array.from({ length: 6 }, (_, at) => floor + (at * (1 - floor)) / 5).map((rate) => [
    rate,
    percent(rate, 0),
  ]);
}
