// What all charts over time share: size, axes, and a cursor for pointer and keyboard.

import { h, mark, s } from "./dom.js";
import { hours } from "./format.js";
import { hideTip, showTip } from "./tip.js";

const LEFT = 44;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 24;

/**
 * A chart of one value per time. To be given:
 *   label       what it shows, for screen readers
 *   height      in pixels
 *   draw(frame, items)      returns SVG elements; frame has x(i), y(value), band, bottom
 *   points(frame, item, i)  returns what marks the cursor (may be left out)
 *   describe(item)          {title, rows: [[label, value, key class]]} for the cursor
 *   ticks(items)            [[value, text]] of the vertical axis, from the bottom to the top
 *   table                   column headings of the same as a table
 */
export class TimeChart {
  #items = [];
  #cursor = -1;
  #width = 0;

  constructor(parent, options) {
    this.options = options;
    this.svg = s("svg", { "aria-hidden": "true" });
    this.plot = h(
      "div",
      {
        class: "plot",
        tabindex: "0",
        role: "slider",
        "aria-label": options.label,
        pointermove: (event) => this.#point(event),
        pointerdown: (event) => this.#point(event),
        pointerleave: () => this.#leave(),
        blur: () => this.#leave(),
        keydown: (event) => this.#key(event),
      },
      this.svg,
    );
    this.body = h("tbody");
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
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ...options.table.map((text, at) => h("th", { scope: "col", class: at ? "n" : null }, text)),
            ),
          ),
          this.body,
        ),
      ),
    );
    parent.append(h("div", { class: "chart" }, this.plot, this.details));
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
    const every = Math.max(1, Math.ceil(this.#items.length / Math.max(2, Math.floor(frame.width / 130))));
    for (let at = 0; at < this.#items.length; at += every) {
      const { time } = this.#items[at];
      const x = frame.x(at);
      if (x > frame.width - 30) break;
      parts.push(
        s("text", { x: Math.max(x, LEFT + 14), y: frame.height - 6, "text-anchor": "middle" }, hours(time)),
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
    this.body.replaceChildren(
      ...this.#items.toReversed().map((item) => {
        const { title, values, rows } = this.options.describe(item);
        return h(
          "tr",
          {},
          h("th", { scope: "row" }, title),
          ...(values ?? rows.map(([, value]) => value)).map((value) => h("td", { class: "n" }, value)),
        );
      }),
    );
  }
}

/** Round figures for a vertical axis from 0 to at least `top`. */
export function niceTicks(top, write) {
  if (!(top > 0))
    return [
      [0, write(0)],
      [1, ""],
    ];
  const rough = top / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  return Array.from({ length: Math.ceil(top / step) + 1 }, (_, at) => [at * step, write(at * step)]);
}
