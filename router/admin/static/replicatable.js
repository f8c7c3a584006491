// Many replicas as a table that can be sorted. Only the rows in view exist, so hundreds cost no more than thirty.

import { h, mark, put, vary } from "./dom.js";
import { age, compact, count, number, percent } from "./format.js";
import { fullness, stateOf, TONES } from "./replicacard.js";

const ROW = 36; // pixels, as in panels.css
const VIEW = 15; // rows
const SPARE = 6;

const rate = (name) => (replica) => replica.recent[name] ?? replica.hour[name];
/** [heading, value to sort by, text, title]; the first is the row's name. */
const COLUMNS = [
  ["Replica", (replica) => replica.replica, (value) => value],
  ["State", stateOf, (value) => value],
  ["Delivered", rate("delivered"), (value) => percent(value)],
  ["Available", rate("available"), (value) => percent(value)],
  ["Running", ({ load }) => load.running, count],
  ["Waiting", ({ load }) => load.waiting, count],
  ["Queued tok.", ({ load }) => load.queued_tokens, compact],
  ["KV use", ({ load }) => load.kv_usage, (value) => percent(value, 0)],
  ["Owned", fullness, (value) => percent(value, 0)],
  ["Evictions/s", (replica) => replica.evictions_per_second, number],
  ["Ring", (replica) => replica.ring_share, (value) => percent(value)],
  ["Event", (replica) => replica.last_event_age_seconds, age],
  ["Pace", (replica) => replica.pace, (value) => `${value.toFixed(2)}×`],
  ["Epoch", (replica) => (replica.epoch ? Date.now() / 1000 - replica.epoch / 1000 : null), age],
  ["Model", (replica) => replica.model, (value) => value],
];
const TEXT = new Set(["Replica", "State", "Model"]);
const NARROW = new Set(["Replica", "State", "Delivered", "KV use"]); // what a phone shows
const kindOf = (heading) => [TEXT.has(heading) ? "" : "n", NARROW.has(heading) ? "" : "wide"].join(" ").trim() || null;

export class ReplicaTable {
  #items = [];
  #column = 0;
  #down = false;
  #rows = [];
  #busy = false;

  constructor(open) {
    this.open = open;
    this.above = h("tr", { class: "spacer", "aria-hidden": "true" }, h("td", { colspan: COLUMNS.length }));
    this.below = h("tr", { class: "spacer", "aria-hidden": "true" }, h("td", { colspan: COLUMNS.length }));
    this.body = h("tbody", {}, this.above, this.below);
    this.heads = COLUMNS.map(([heading], at) =>
      h(
        "th",
        { scope: "col", class: kindOf(heading) },
        h("button", { class: "sort", click: () => this.#sort(at) }, heading),
      ),
    );
    this.table = h(
      "table",
      { class: "dense replicas" },
      h("caption", {}, "All replicas"),
      h("thead", {}, h("tr", {}, ...this.heads)),
      this.body,
    );
    this.view = h(
      "div",
      {
        class: "scroll tall",
        tabindex: "0",
        role: "region",
        "aria-label": "All replicas",
        scroll: () => this.#fill(),
      },
      this.table,
    );
    this.element = h(
      "div",
      {
        class: "card flush",
        pointerenter: () => {
          this.#busy = true;
        },
        pointerleave: () => {
          this.#busy = false;
        },
      },
      this.view,
    );
  }

  /** Show these replicas. Rows keep their places while the pointer or the focus is on them. */
  show(replicas) {
    if (
      (this.#busy || this.view.contains(document.activeElement)) &&
      replicas.length === this.#items.length
    ) {
      const latest = new Map(replicas.map((replica) => [replica.replica, replica]));
      const same = this.#items.map(({ replica }) => latest.get(replica));
      this.#items = same.every(Boolean) ? same : this.#sorted(replicas);
    } else this.#items = this.#sorted(replicas);
    mark(this.table, "aria-rowcount", replicas.length + 1);
    this.#fill();
  }

  #sort(column) {
    this.#down = column === this.#column ? !this.#down : !TEXT.has(COLUMNS[column][0]);
    this.#column = column;
    this.#items = this.#sorted(this.#items);
    this.#fill();
  }

  #sorted(items) {
    const read = COLUMNS[this.#column][1];
    const sign = this.#down ? -1 : 1;
    this.heads.forEach((head, at) =>
      mark(head, "aria-sort", at === this.#column ? (this.#down ? "descending" : "ascending") : null),
    );
    return items
      .map((item) => [read(item), item])
      .sort(([one, first], [other, second]) => {
        if (one === null || other === null) return (one === null) - (other === null); // unknown last, either way
        const order =
          typeof one === "string" ? one.localeCompare(other, "en", { numeric: true }) : one - other;
        return sign * order || first.replica.localeCompare(second.replica, "en", { numeric: true });
      })
      .map(([, item]) => item);
  }

  #fill() {
    const from = Math.max(0, Math.min(Math.floor(this.view.scrollTop / ROW) - SPARE, this.#items.length - 1));
    const visible = this.#items.slice(from, from + VIEW + 2 * SPARE);
    while (this.#rows.length < visible.length) this.#rows.push(this.#make());
    this.#rows.forEach((row, at) => {
      const replica = visible[at];
      if (!replica) return row.element.remove();
      if (!row.element.isConnected) this.below.before(row.element);
      return this.#update(row, replica, from + at);
    });
    vary(this.above, "--space", `${from * ROW}px`);
    vary(this.below, "--space", `${(this.#items.length - from - visible.length) * ROW}px`);
  }

  #make() {
    const row = { id: "" };
    row.name = h("button", { class: "link", click: () => this.open(row.id) });
    row.state = h("span", { class: "badge" });
    row.cells = COLUMNS.slice(2).map(([heading]) => h("td", { class: kindOf(heading) }));
    row.element = h("tr", {}, h("th", { scope: "row" }, row.name), h("td", {}, row.state), ...row.cells);
    return row;
  }

  #update(row, replica, at) {
    row.id = replica.replica;
    mark(row.element, "aria-rowindex", at + 2);
    mark(row.element, "data-replica", replica.replica);
    put(row.name, replica.replica);
    const state = stateOf(replica);
    put(row.state, state);
    mark(row.state, "data-tone", TONES[state]);
    row.cells.forEach((cell, at) => {
      const [, read, write] = COLUMNS[at + 2];
      put(cell, write(read(replica)));
    });
  }
}
