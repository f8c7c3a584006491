// What the caches saved, hour by hour, by model and replica.

import { get } from "./api.js";
import { h, mark, one, put, region, table } from "./dom.js";
import { compact, count, duration, hours, percent, savedTime, speedup } from "./format.js";
import { stackChart } from "./stackchart.js";

const HOURS = 24;

export class SavingsPanel {
  #answer = null;
  #unit = "saved_tokens";

  constructor() {
    const place = one("#savings-chart");
    const units = [
      ["saved_tokens", "Tokens"],
      ["saved_seconds", "Seconds"],
    ];
    this.total = h("h3");
    this.head = h(
      "div",
      { class: "chart-head" },
      this.total,
      h(
        "fieldset",
        { class: "segments", "aria-label": "Unit" },
        ...units.map(([value, label]) =>
          h(
            "label",
            {},
            h("input", {
              type: "radio",
              name: "unit",
              value,
              checked: value === this.#unit,
              change: () => {
                this.#unit = value;
                this.#draw();
              },
            }),
            h("span", {}, label),
          ),
        ),
      ),
    );
    this.area = h("div", {}, this.head);
    place.append(this.area);
    const make = (write, label) => {
      const box = h("div");
      this.area.append(box);
      return {
        box,
        chart: stackChart(box, {
          label,
          series: [["saved", "Saved"]],
          height: 180,
          write,
          when: (time) => `${hours(time)} to ${hours(time + 3600)}`,
        }),
      };
    };
    this.charts = {
      saved_tokens: make(compact, "Tokens saved by hour"),
      saved_seconds: make((value) => (value ? duration(value) : "0"), "Prefill seconds saved by hour"),
    };
    this.empty = h(
      "p",
      { class: "empty" },
      "Nothing saved yet. This fills as soon as a prompt meets its own cache.",
    );
    this.table = region("Savings by model and replica", "scroll");
    this.models = region("Time to first token by model", "scroll");
    place.append(this.empty);
    one("#savings-table").append(this.table, this.models);
  }

  async load() {
    this.#answer = await get(`savings?hours=${HOURS}`);
    this.#draw();
  }

  #draw() {
    if (!this.#answer) return;
    const { hours: rows, total, ttft } = this.#answer;
    const quiet = !total.requests;
    this.area.hidden = quiet;
    this.empty.hidden = !quiet;
    mark(one("#savings-table"), "hidden", quiet ? "" : null);
    if (quiet) return;
    put(
      this.total,
      `${compact(total.saved_tokens)} tokens and ${savedTime(total)} of prefill in ${HOURS} hours, ${percent(total.saved_tokens / total.prompt_tokens)} of all prompt tokens`,
    );
    for (const [unit, { box, chart }] of Object.entries(this.charts)) {
      box.hidden = unit !== this.#unit;
      if (!box.hidden) chart.show(byHour(rows, unit));
    }
    this.table.replaceChildren(perReplica(rows));
    this.models.replaceChildren(perModel(ttft));
  }
}

/** One item per hour of the day that ends now, empty hours included. */
function byHour(rows, unit) {
  const last = Math.max(...rows.map(({ hour }) => hour));
  const sums = new Map();
  for (const row of rows) sums.set(row.hour, (sums.get(row.hour) ?? 0) + (row[unit] ?? 0));
  return Array.from({ length: HOURS }, (_, at) => {
    const time = last - (HOURS - 1 - at) * 3600;
    return { time, parts: { saved: sums.get(time) ?? 0 } };
  });
}

function perReplica(rows) {
  const sums = new Map();
  for (const row of rows) {
    const key = JSON.stringify([row.model, row.replica]);
    const sum = sums.get(key) ?? {
      model: row.model,
      replica: row.replica,
      requests: 0,
      prompt_tokens: 0,
      saved_tokens: 0,
      saved_seconds: 0,
      priced_tokens: 0,
    };
    for (const name of ["requests", "prompt_tokens", "saved_tokens", "saved_seconds", "priced_tokens"])
      sum[name] += row[name] ?? 0;
    sums.set(key, sum);
  }
  const ordered = [...sums.values()].sort((one, other) => other.saved_tokens - one.saved_tokens);
  return table(
    "dense",
    "Savings in 24 hours by replica and model",
    [
      ["Replica"],
      ["Model", "wide"],
      ["Requests", "n"],
      ["Prompt tokens", "n wide"],
      ["Tokens saved", "n"],
      ["Share", "n"],
      ["Time saved", "n"],
    ],
    h(
      "tbody",
      {},
      ...ordered.map((sum) =>
        h(
          "tr",
          { "data-replica": sum.replica },
          h("th", { scope: "row" }, sum.replica),
          h("td", { class: "wide clip" }, sum.model),
          h("td", { class: "n" }, count(sum.requests)),
          h("td", { class: "n wide" }, compact(sum.prompt_tokens)),
          h("td", { class: "n" }, compact(sum.saved_tokens)),
          h("td", { class: "n" }, percent(sum.prompt_tokens ? sum.saved_tokens / sum.prompt_tokens : null)),
          h("td", { class: "n" }, savedTime(sum)),
        ),
      ),
    ),
  );
}

function perModel(ttft) {
  const cells = ({ p50, p95, p99 }) =>
    [p50, p95, p99].map((value) => h("td", { class: "n" }, duration(value)));
  return table(
    "dense",
    "Time to first token of streams in the last hour",
    [
      ["Time to first token, 1 h"],
      ["Cache"],
      ["p50", "n"],
      ["p95", "n"],
      ["p99", "n"],
      ["Requests", "n wide"],
    ],
    h(
      "tbody",
      {},
      ...ttft.flatMap(({ model, warm, cold, ...both }) =>
        [
          ["warm", warm],
          ["cold", cold],
        ].map(([kind, latency]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, model),
            h(
              "td",
              {},
              kind,
              kind === "warm" && both.speedup
                ? h("span", { class: "muted" }, ` ${speedup({ warm, cold, ...both })}`)
                : null,
            ),
            ...cells(latency),
            h("td", { class: "n wide" }, count(latency.count)),
          ),
        ),
      ),
    ),
  );
}
