// What operators changed, newest first.

import { get } from "./api.js";
import { h, one, region, table } from "./dom.js";
import { moment } from "./format.js";

const KEPT = 100;

export class AuditPanel {
  #entries = [];

  constructor() {
    this.body = h("tbody");
    const columns = [["Time"], ["Action"], ["Target"], ["Detail"], ["By"]];
    this.table = region("Audit log", "scroll tall", table(null, "Audit log", columns, this.body));
    this.empty = h("p", { class: "empty" }, "Nothing has been changed yet.");
    one("#audit-list").append(this.table, this.empty);
  }

  async load() {
    this.#entries = (await get(`audit?limit=${KEPT}`)).entries;
    this.#draw();
  }

  /** Take new entries, newest first. */
  add(entries) {
    const fresh = entries.map((entry) => JSON.stringify(entry));
    this.#entries = [
      ...entries,
      ...this.#entries.filter((entry) => !fresh.includes(JSON.stringify(entry))),
    ].slice(0, KEPT);
    this.#draw();
  }

  #draw() {
    this.empty.hidden = this.#entries.length > 0;
    this.table.hidden = !this.#entries.length;
    this.body.replaceChildren(
      ...this.#entries.map(({ time, action, target, detail, by }) =>
        h(
          "tr",
          {},
          h("td", {}, moment(time)),
          h("th", { scope: "row" }, action),
          h("td", { class: "mono" }, target),
          h("td", { class: "wrap" }, detail),
          h("td", { class: "muted" }, by),
        ),
      ),
    );
  }
}
