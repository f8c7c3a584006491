// The fleet at a glance: three hit rates, what their gaps mean, traffic, savings, time to the first token.

import { h, mark, one, put } from "./dom.js";
import { isSerious } from "./alarms.js";
import { compact, count, duration, number, percent, plural, points, savedTime, speedup } from "./format.js";
import { RATES } from "./ratechart.js";

const HEALTHY = 0.85;
const LOW = 0.5;
const ENOUGH = 20;

export class FleetPanel {
  constructor() {
    this.rates = Object.fromEntries(RATES.map(([name, label]) => [name, rateFigure(name, label)]));
    one("#rates").append(...RATES.map(([name]) => this.rates[name].element));
    this.figures = new Figures(one("#figures"));
  }

  overview(overview) {
    const { fleet } = overview;
    put(one("#fleet-line"), fleetLine(fleet));
    const { recent, hour } = fleet;
    const notes = gapNotes(recent.prompt_tokens ? recent : hour);
    for (const [name, label] of RATES) {
      const figure = this.rates[name];
      put(figure.value, percent(recent[name]));
      put(figure.hour, `${percent(hour[name])} in the last hour`);
      put(figure.note, notes[name]);
      mark(figure.value, "aria-label", `${label} ${percent(recent[name])}, last 5 minutes`);
    }
    const [tone, word] = rating(recent, isSerious(overview));
    mark(this.rates.delivered.badge, "data-tone", tone);
    mark(this.rates.delivered.badge, "hidden", word ? null : "");
    put(this.rates.delivered.badge, word);
    this.figures.show(overview);
  }
}

function rateFigure(name, label) {
  const figure = {
    value: h("p", { class: "big" }),
    hour: h("p", { class: "small muted" }),
    note: h("p", { class: "note" }),
    badge: h("span", { class: "badge", hidden: true }),
  };
  figure.element = h(
    "div",
    { class: `rate ${name}` },
    h("h3", {}, h("span", { class: `key line ${name}`, "aria-hidden": "true" }), label, figure.badge),
    figure.value,
    figure.hour,
    figure.note,
  );
  return figure;
}

/** Below so much a difference of two rates says nothing: half a point, more where there are few requests. */
const resolution = (requests) => Math.max(0.005, 1 / Math.max(requests, 1));

/** One sentence per rate: what it is, and what its gap to the one above it means. */
function gapNotes({ available, predicted, delivered, requests }) {
  const least = resolution(requests);
  if (available === null) {
    return {
      delivered: "What engines report to have had cached.",
      predicted: "What the chosen replica was believed to hold.",
      available: "The best that any replica held.",
    };
  }
  const wrong = delivered - predicted;
  const close = Math.abs(wrong) < least;
  return {
    delivered: close
      ? "As predicted: the index is right."
      : wrong < 0
        ? `${points(wrong)}, index wrong: engines had less than was believed.`
        : `${points(wrong)}, index behind: engines had more than was believed.`,
    predicted:
      Math.abs(predicted - available) < least
        ? "As available: requests went to the best cache."
        : `${points(predicted - available)}, load diverted: the best cache was busy.`,
    available: `The best any replica held; ${percent(1 - available)} was new to all.`,
  };
}

/** A word about the rate; none where there are few requests, and nothing is healthy beside a dead replica. */
function rating({ delivered: rate, requests }, serious) {
  if (rate === null || requests < ENOUGH) return ["", ""];
  if (rate >= HEALTHY) return serious ? ["", ""] : ["good", "healthy"];
  return rate < LOW ? ["warn", "low"] : ["", ""];
}

function fleetLine(fleet) {
  if (!fleet.replicas) return "No replica has registered yet.";
  const parts = [`${count(fleet.ready)} of ${plural(fleet.replicas, "replica")} ready`];
  if (fleet.draining) parts.push(`${count(fleet.draining)} draining`);
  parts.push(`${count(fleet.running)} running`, `${count(fleet.waiting)} waiting`);
  if (fleet.held_requests) parts.push(`${count(fleet.held_requests)} held in routers`);
  return parts.join(" · ");
}

const LOAD = [
  ["Open bookings", (fleet) => count(fleet.open_bookings)],
  ["Queued prefill tokens", (fleet) => compact(fleet.queued_tokens)],
  ["Held in routers", (fleet) => count(fleet.held_requests)],
  ["Blocks in the index", (fleet) => compact(fleet.index_blocks)],
];

class Figures {
  constructor(parent) {
    this.values = {};
    this.load = [];
    const figure = (name, label) => h("div", {}, h("dt", {}, label), (this.values[name] = h("dd")));
    this.rows = Object.fromEntries(
      ["warm", "cold"].map((kind) => [kind, ["p50", "p95", "p99", "count"].map(() => h("td", { class: "n" }))]),
    );
    this.faster = h("p", { class: "small muted" });
    parent.append(
      h(
        "dl",
        { class: "grid2" },
        figure("requests", "Requests/s"),
        figure("tokens", "Prompt tokens/s"),
        figure("saved", "Tokens saved, 1 h"),
        figure("seconds", "Prefill saved, 1 h"),
      ),
      h(
        "dl",
        { class: "figures-list one" },
        ...LOAD.map(([label, read]) => {
          const value = h("dd");
          this.load.push([value, read]);
          return h("div", {}, h("dt", {}, label), value);
        }),
      ),
      h(
        "div",
        { class: "ttft" },
        h("h3", {}, "Time to first token of streams, 1 h"),
        h(
          "table",
          { class: "plain" },
          h("caption", {}, "Time to first token of streams in the last hour, warm and cold"),
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("td"),
              ...["p50", "p95", "p99", "streams"].map((text) => h("th", { scope: "col", class: "n" }, text)),
            ),
          ),
          h(
            "tbody",
            {},
            ...Object.entries(this.rows).map(([kind, cells]) =>
              h("tr", {}, h("th", { scope: "row" }, kind === "warm" ? "Warm" : "Cold"), ...cells),
            ),
          ),
        ),
        this.faster,
      ),
    );
  }

  show({ fleet }) {
    put(this.values.requests, number(fleet.requests_per_second));
    put(this.values.tokens, compact(fleet.prompt_tokens_per_second));
    put(this.values.saved, compact(fleet.hour.saved_tokens));
    put(this.values.seconds, savedTime(fleet.hour));
    for (const [value, read] of this.load) put(value, read(fleet));
    const { warm, cold } = fleet.ttft;
    for (const [kind, latency] of [
      ["warm", warm],
      ["cold", cold],
    ]) {
      ["p50", "p95", "p99"].forEach((name, at) => put(this.rows[kind][at], duration(latency[name])));
      put(this.rows[kind][3], count(latency.count));
    }
    put(this.faster, `Warm: half or more of the prompt was cached. ${speedup(fleet.ttft)}`);
  }
}
