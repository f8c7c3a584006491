// Why tokens were computed again: over time, and as shares with what to do about each.

import { h, mark, one, put, vary } from "./dom.js";
import { clock, compact, percent } from "./format.js";
import { REASONS } from "./reasons.js";
import { stackChart } from "./stackchart.js";

export class MissPanel {
  constructor(pick) {
    this.chart = stackChart(one("#miss-chart"), {
      label: "Tokens computed again, by reason",
      height: 200,
      series: REASONS.map(([name, label]) => [name, label]),
      read: (item) => item.misses,
      write: compact,
      when: clock,
      pick,
    });
    this.rows = new Map();
    one("#miss-list").append(
      h(
        "ul",
        { class: "reasons", "aria-label": "Reasons, last hour" },
        ...REASONS.map((reason) => this.#row(reason)),
      ),
    );
  }

  #row([name, label, meaning, advice]) {
    const row = {
      share: h("strong"),
      tokens: h("span", { class: "muted" }),
      meter: h("span", { class: `meter reason ${name}` }),
    };
    this.rows.set(name, row);
    row.element = h(
      "li",
      {},
      h(
        "div",
        { class: "reason-head" },
        h("span", { class: `key ${name}` }),
        h("h3", {}, label),
        row.tokens,
        row.share,
      ),
      row.meter,
      h("p", {}, meaning, " ", h("span", { class: "muted" }, advice)),
    );
    return row.element;
  }

  /** Shares of the last hour. */
  overview({ fleet }) {
    const { misses } = fleet.hour;
    const all = Object.values(misses).reduce((sum, tokens) => sum + tokens, 0);
    for (const [name, row] of this.rows) {
      put(row.share, all ? percent(misses[name] / all) : "–");
      put(row.tokens, `${compact(misses[name])} tokens`);
      vary(row.meter, "--part", all ? (misses[name] / all).toFixed(4) : 0);
      mark(row.element, "data-none", !misses[name]);
    }
  }

  show(items) {
    this.chart.show(items);
  }
}
