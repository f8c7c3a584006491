// Six charts at the top of the page: what a night shift looks at first.

import { h, one, put } from "./dom.js";
import { clock, compact, count, duration, number, percent, plural, roundDuration } from "./format.js";
import { lineChart } from "./linechart.js";
import { rateChart } from "./ratechart.js";
import { stackChart } from "./stackchart.js";
import { niceTicks } from "./timechart.js";

const HEIGHT = 150;
const OUTCOMES = [
  ["ok", "Answered"],
  ["cancelled", "Cancelled"],
  ["refused", "Refused"],
  ["failed", "Failed"],
];
const PERCENTILES = [
  ["p50", "p50"],
  ["p95", "p95"],
  ["p99", "p99"],
];
const STATUSES = { 599: "broke off" };
const statusLabel = (status) => STATUSES[status] ?? `HTTP ${status}`;

export class Vitals {
  constructor(pick) {
    const place = one("#vitals");
    const shared = { height: HEIGHT, when: clock, pick };
    const card = (title, make, value) => {
      const figure = h("span", { class: "figure" });
      const area = h("div", { class: "card vital" }, h("div", { class: "vital-head" }, h("h3", {}, title), figure));
      place.append(area);
      return { chart: make(area), show: (items) => put(figure, value(items)) };
    };
    const last = (items) => items.at(-1);
    this.cards = [
      card(
        "Requests per second",
        (area) =>
          stackChart(area, { ...shared, label: "Requests per second", series: OUTCOMES, write: number, read: (item) => item.outcomes }),
        (items) => `${number(last(items).requests / last(items).width)}/s`,
      ),
      card(
        "Errors by status",
        (area) =>
          stackChart(area, {
            ...shared,
            label: "Errors by status",
            none: "No errors in this range.",
            series: (items) =>
              [...new Set(items.flatMap(({ errors }) => Object.keys(errors)))]
                .sort()
                .map((status, at) => [`s${at % 8}`, statusLabel(status), status]),
            write: count,
            read: (item) => item.errors,
            whole: true,
          }),
        (items) => {
          const errors = items.reduce((sum, { failed, refused }) => sum + failed + refused, 0);
          const all = items.reduce((sum, { requests }) => sum + requests, 0);
          return `${plural(errors, "error")}${errors ? `, ${percent(errors / all)}` : ""}`;
        },
      ),
      card(
        "Time to first token",
        (area) =>
          lineChart(area, { ...shared, label: "Time to first token of streams", series: PERCENTILES, write: duration, ticks: (items) => niceTicks(Math.max(0, ...items.map(({ p99 }) => p99 ?? 0)), roundDuration), extra: (item) => ["Streams", count(item.streams)] }),
        (items) => `p95 ${duration(items.findLast(({ p95 }) => p95 !== null)?.p95)}`,
      ),
      card(
        "Hit rate",
        (area) => rateChart(area, shared),
        (items) => percent(items.findLast(({ delivered }) => delivered !== null)?.delivered),
      ),
      card(
        "Output tokens per second",
        (area) => lineChart(area, { ...shared, label: "Output tokens per second", series: [["output", "Output"]], write: compact }),
        (items) => `${compact(last(items).output)}/s`,
      ),
      card(
        "Prompt tokens per second",
        (area) =>
          stackChart(area, {
            ...shared,
            label: "Prompt tokens per second",
            series: [
              ["cached", "From the cache"],
              ["computed", "Computed"],
            ],
            write: compact,
            read: (item) => item.prompts,
          }),
        (items) => `${compact(last(items).prompts.cached + last(items).prompts.computed)}/s`,
      ),
    ];
  }

  show(items) {
    for (const { chart, show } of this.cards) {
      chart.show(items);
      if (items.length) show(items);
    }
  }
}
