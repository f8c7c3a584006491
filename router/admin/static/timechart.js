// What all charts over time share: size, axes, legend, export, and a cursor for pointer and keyboard.

import { h, mark, s } from "./dom.js";
import { saveChart, saveTable } from "./export.js";
import { timeTicks } from "./format.js";
import { hideTip, showTip } from "./tip.js";

const LEFT = 44;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 22;
const LABEL = 84; // pixels that a time below the axis may take

/**
 * A chart of one value per time. To be given:
 *   label       what it shows, for screen readers
 *   height      in pixels
 *   draw(frame, items)      returns SVG elements; frame has x(i), y(value), band, bottom
 *   points(frame, item, i)  returns what marks the cursor (may be left out)
 *   describe(item)          {title, rows: [[label, value, key class]]} for the cursor
 *   values(item)            the plain numbers of a row of the table
 *   ticks(items)            [[value, text]] of the vertical axis, from the bottom to the top
 *   table                   column headings of the same as a table, or a function that returns them
 *   legend                  [[key class, text]], or a function of the items that returns them (may be left out)
 *   none                    what to say where all values are 0 (may be left out)
 *   pick(item)              a point was clicked (may be left out)
 */
export class TimeChart {
  #items = [];
  #cursor = -1;
  #width = 0;
  #legend = "";

  constructor(parent, options) {
    this.options = options;
    this.svg = s("svg", { "aria-hidden": "true" });
    this.plot = h(
      "div",
      {
        class: "plot",
        tabindex: "0",
        role: "slider",
        "aria-valuenow": "0",
        "aria-label": options.label,
        pointermove: (event) => this.#point(event),
        pointerdown: (event) => this.#point(event),
        click: () => this.#pick(),
        pointerleave: () => this.#leave(),
        blur: () => this.#leave(),
        keydown: (event) => this.#key(event),
      },
      this.svg,
      (this.empty = h("p", { class: "none", hidden: true }, options.none ?? "")),
    );
    this.body = h("tbody");
    this.headings = h("tr");
    this.legend = h("ul", { class: "legend small" });
    this.details = h(
      "details",
      { class: "data", toggle: () => this.#fillTable() },
      h("summary", {}, "Show as a table"),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": `${options.label}, as a table` },
        h(
          "table",
          {},
          h("caption", {}, options.label),
          h("thead", {}, this.headings),
          this.body,
        ),
      ),
    );
    const save = (text, title, run) =>
      h("button", { class: "link small", title, "aria-label": `${title}: ${options.label}`, click: run }, text);
    parent.append(
      h(
        "div",
        { class: "chart" },
        this.legend,
        this.plot,
        this.details,
        h(
          "div",
          { class: "saves" },
          save("CSV", "Save as CSV", () =>
            saveTable(options.label, this.#headings(), this.#items, (item) => options.values(item)),
          ),
          save("PNG", "Save as PNG", () => saveChart(options.label, this.svg)),
        ),
      ),
    );
    new ResizeObserver(([{ contentRect }]) => {
      if (Math.round(contentRect.width) !== this.#width) {
        this.#width = Math.round(contentRect.width);
        this.#draw();
      }
    }).observe(this.plot);
  }

  /** Draw other items: each has `time`, seconds since 1970, and whatever `draw` needs. */
  show(items) {
    if (this.#cursor >= items.length) this.#cursor = -1;
    this.#items = items;
    const { legend = [] } = this.options;
    const keys = typeof legend === "function" ? legend(items) : legend;
    const text = JSON.stringify(keys);
    if (text !== this.#legend) {
      this.#legend = text;
      this.legend.hidden = !keys.length;
      this.legend.replaceChildren(...keys.map(([kind, label]) => h("li", {}, h("span", { class: `key ${kind}` }), label)));
    }
    if (this.options.none) this.empty.hidden = items.some((item) => this.options.values(item).some(Boolean));
    mark(this.plot, "aria-valuemin", 0);
    mark(this.plot, "aria-valuemax", Math.max(items.length - 1, 0));
    this.#say(this.#cursor < 0 ? items.length - 1 : this.#cursor);
    this.#draw();
    this.#fillTable();
  }

  #frame() {
    const { height } = this.options;
    const width = Math.max(this.#width, 120);
    const ticks = this.options.ticks(this.#items);
    const low = ticks[0][0];
    const range = ticks.at(-1)[0] - low || 1;
    const band = (width - LEFT - RIGHT) / Math.max(this.#items.length, 1);
    return {
      width,
      height,
      band,
      ticks,
      bottom: height - BOTTOM,
      x: (at) => LEFT + (at + 0.5) * band,
      y: (value) => height - BOTTOM - ((value - low) / range) * (height - BOTTOM - TOP),
    };
  }

  #draw() {
    if (!this.#width || !this.#items.length) return;
    const frame = this.#frame();
    this.frame = frame;
    mark(this.svg, "viewBox", `0 0 ${frame.width} ${frame.height}`);
    const cursor =
      this.#cursor < 0
        ? []
        : [
            s("line", {
              class: "cursor",
              x1: frame.x(this.#cursor),
              x2: frame.x(this.#cursor),
              y1: TOP,
              y2: frame.bottom,
            }),
            ...(this.options.points?.(frame, this.#items[this.#cursor], this.#cursor) ?? []),
          ];
    this.svg.replaceChildren(...this.#axes(frame), ...this.options.draw(frame, this.#items), ...cursor);
  }

  #axes(frame) {
    const parts = frame.ticks.flatMap(([value, text]) => [
      s("line", { class: "grid", x1: LEFT, x2: frame.width - RIGHT, y1: frame.y(value), y2: frame.y(value) }),
      s("text", { x: LEFT - 10, y: frame.y(value) + 4, "text-anchor": "end" }, text),
    ]);
    const [{ time: begin }] = this.#items;
    const width = this.#items.length > 1 ? this.#items[1].time - begin : 1;
    const most = Math.max(2, Math.floor(frame.width / LABEL));
    for (const [time, text] of timeTicks(begin, begin + width * this.#items.length, most)) {
      const x = LEFT + ((time - begin) / width) * frame.band;
      if (x < LEFT + 12 || x > frame.width - 16) continue;
      parts.push(
        s("line", { class: "grid", x1: x, x2: x, y1: frame.bottom, y2: frame.bottom + 4 }),
        s("text", { x, y: frame.height - 4, "text-anchor": "middle" }, text),
      );
    }
    return parts;
  }

  #point(event) {
    if (!this.frame || !this.#items.length) return;
    const box = this.svg.getBoundingClientRect();
    const at = Math.floor((event.clientX - box.left - LEFT) / this.frame.band);
    this.#move(at, event.clientX, event.clientY);
  }

  #key(event) {
    const last = this.#items.length - 1;
    const from = this.#cursor < 0 ? last : this.#cursor;
    const to = {
      ArrowLeft: from - 1,
      ArrowRight: from + 1,
      Home: 0,
      End: last,
      PageUp: from - 10,
      PageDown: from + 10,
    }[event.key];
    if (event.key === "Escape") this.#leave();
    if (event.key === "Enter") this.#pick();
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.#move(to);
  }

  #move(wanted, x, y) {
    const at = Math.min(Math.max(wanted, 0), this.#items.length - 1);
    this.#cursor = at;
    this.#draw();
    this.#say(at);
    const box = this.svg.getBoundingClientRect();
    const { title, rows } = this.options.describe(this.#items[at]);
    showTip(x ?? box.left + this.frame.x(at), y ?? box.top + box.height / 2, title, rows);
  }

  /** From a point to what is behind it. */
  #pick() {
    const item = this.#items[this.#cursor];
    if (!item || !this.options.pick) return;
    this.#leave();
    this.options.pick(item);
  }

  #headings() {
    const { table } = this.options;
    return typeof table === "function" ? table() : table;
  }

  #leave() {
    this.#cursor = -1;
    hideTip();
    this.#draw();
  }

  #say(at) {
    if (!this.#items[at]) return;
    const { title, rows } = this.options.describe(this.#items[at]);
    mark(this.plot, "aria-valuenow", at);
    mark(
      this.plot,
      "aria-valuetext",
      `${title}: ${rows.map(([label, value]) => `${label} ${value}`).join(", ")}`,
    );
  }

  #fillTable() {
    if (!this.details.open) return;
    this.headings.replaceChildren(
      ...this.#headings().map((text, at) => h("th", { scope: "col", class: at ? "n" : null }, text)),
    );
    this.body.replaceChildren(
      ...this.#items.toReversed().map((item) => {
        const { title } = this.options.describe(item);
        return h(
          "tr",
          {},
          h("th", { scope: "row" }, title),
          ...this.options.values(item).map((value) => h("td", { class: "n" }, plain(value))),
        );
      }),
    );
  }
}

/** A number of a table, to four places. */
const plain = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : (value ?? "–"));

/** Round figures for a vertical axis from 0 to at least `top`; `whole` where there is nothing between 0 and 1. */
export function niceTicks(top, write, whole = false) {
  if (!(top > 0))
    return [
      [0, write(0)],
      [1, ""],
    ];
  const rough = Math.max(top / 3, whole ? 1 : 0);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  return Array.from({ length: Math.ceil(top / step) + 1 }, (_, at) => [at * step, write(at * step)]);
}
