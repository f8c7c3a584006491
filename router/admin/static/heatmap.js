// Replica by time on a canvas: how warm each one was.

import { colour, h, mark, vary } from "./dom.js";
import { count, hours, percent } from "./format.js";
import { rates } from "./history.js";
import { hideTip, showTip } from "./tip.js";

const SPAN = 3600;
const HIGHEST = 520;
const NAMED_ROW = 14; // pixels a row needs for its name
const LARGEST_ROW = 22;

/** The panel. `show(history, ids)` draws it anew. */
export class HeatMap {
  #groups = [];
  #ids = [];
  #cell = null;
  #row = LARGEST_ROW;

  constructor(parent) {
    this.names = h("div", { class: "names", "aria-hidden": "true" });
    this.canvas = h("canvas", {
      tabindex: "0",
      role: "slider",
      "aria-label": "Delivered hit rate of each replica over time. Arrow keys move.",
      "aria-valuemin": "0",
      pointermove: (event) => this.#point(event),
      pointerdown: (event) => this.#point(event),
      pointerleave: () => this.#leave(),
      blur: () => this.#leave(),
      keydown: (event) => this.#key(event),
    });
    this.axis = h("div", { class: "axis", "aria-hidden": "true" });
    this.grid = h("div", { class: "heat" }, this.names, this.canvas, this.axis);
    this.empty = h("p", { class: "empty" }, "No replica has had traffic in the last hour.");
    this.head = h(
      "div",
      { class: "chart-head" },
      h("span", { class: "scale", "aria-hidden": "true" }, "cold 0%", h("i"), "100% warm"),
    );
    parent.append(this.head, this.grid, this.empty);
    new ResizeObserver(() => this.#draw()).observe(this.grid);
    document.addEventListener("themechange", () => this.#draw());
  }

  show(history, ids) {
    this.#history = history;
    this.#ids = ids;
    this.#draw();
  }

  #history = null;

  #draw() {
    if (!this.#history) return;
    const quiet = !this.#ids.length || !this.#history.end;
    this.empty.hidden = !quiet;
    this.grid.hidden = this.head.hidden = quiet;
    if (quiet) return;
    this.#row = Math.min(LARGEST_ROW, Math.max(2, Math.floor(HIGHEST / this.#ids.length)));
    mark(this.grid, "class", this.#row < NAMED_ROW ? "heat dense" : "heat");
    vary(this.grid, "--row", `${this.#row}px`);
    if (this.names.childElementCount !== this.#ids.length || this.names.lastIds !== this.#ids.join()) {
      this.names.lastIds = this.#ids.join();
      this.names.replaceChildren(...this.#ids.map((id) => h("div", { title: id }, id)));
    }
    const width = Math.floor(this.canvas.getBoundingClientRect().width);
    if (!width) return;
    const step = [10, 20, 30, 60, 120].find((seconds) => width / (SPAN / seconds) >= 6) ?? 120;
    this.#groups = this.#history.groups(SPAN, step);
    this.axis.replaceChildren(
      ...[0, 0.25, 0.5, 0.75].map((part) => h("span", {}, hours(this.#groups[0].time + part * SPAN))),
      h("span", {}, hours(this.#history.end)),
    );
    this.#paint(width, this.#ids.length * this.#row);
  }

  #paint(width, height) {
    const scale = devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    vary(this.canvas, "height", `${height}px`);
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const palette = makePalette();
    const quiet = `rgb(${colour("--sunken").join(" ")})`;
    const band = width / this.#groups.length;
    const gap = this.#row >= NAMED_ROW ? 1 : 0; // where rows are thin a gap would be half the picture
    this.#groups.forEach((group, column) => {
      const left = Math.round(column * band);
      const cell = Math.round((column + 1) * band) - left - gap;
      this.#ids.forEach((id, row) => {
        const sums = group.replicas.get(id);
        context.fillStyle = sums?.[1]
          ? (palette[Math.round((sums[4] / sums[1]) * 100)] ?? palette[100])
          : quiet;
        context.fillRect(left, row * this.#row, cell, this.#row - gap);
      });
    });
    if (this.#cell) {
      const [column, row] = this.#cell;
      context.strokeStyle = `rgb(${colour("--text").join(" ")})`;
      context.lineWidth = 2;
      context.strokeRect(
        Math.round(column * band),
        row * this.#row,
        Math.max(band, 4),
        Math.max(this.#row, 4),
      );
    }
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.#groups.length);
    this.#move(column, Math.floor((event.clientY - box.top) / this.#row), event.clientX, event.clientY);
  }

  #key(event) {
    const [column, row] = this.#cell ?? [this.#groups.length - 1, 0];
    const to = {
      ArrowLeft: [column - 1, row],
      ArrowRight: [column + 1, row],
      ArrowUp: [column, row - 1],
      ArrowDown: [column, row + 1],
    }[event.key];
    if (event.key === "Escape") this.#leave();
    if (!to) return;
    event.preventDefault();
    this.#move(...to);
  }

  #move(wantedColumn, wantedRow, x, y) {
    const column = Math.min(Math.max(wantedColumn, 0), this.#groups.length - 1);
    const row = Math.min(Math.max(wantedRow, 0), this.#ids.length - 1);
    if (column < 0 || row < 0) return;
    this.#cell = [column, row];
    const box = this.canvas.getBoundingClientRect();
    this.#paint(Math.floor(box.width), this.#ids.length * this.#row);
    const { time, replicas } = this.#groups[column];
    const sums = replicas.get(this.#ids[row]) ?? [0, 0, 0, 0, 0];
    const { delivered, predicted, available } = rates(sums);
    const rows = [
      ["Delivered", percent(delivered)],
      ["Predicted", percent(predicted)],
      ["Available", percent(available)],
      ["Requests", count(sums[0])],
      ["Prompt tokens", count(sums[1])],
    ];
    const title = `${this.#ids[row]}, ${hours(time)}`;
    mark(this.canvas, "aria-valuenow", column);
    mark(this.canvas, "aria-valuemax", this.#groups.length - 1);
    mark(this.canvas, "aria-valuetext", `${title}: ${rows.map((pair) => pair.join(" ")).join(", ")}`);
    showTip(
      x ?? box.left + ((column + 0.5) / this.#groups.length) * box.width,
      y ?? box.top + (row + 0.5) * this.#row,
      title,
      rows,
    );
  }

  #leave() {
    this.#cell = null;
    hideTip();
    this.#draw();
  }
}

/** 101 colours, one per percent. */
function makePalette() {
  const stops = ["--rate-0", "--rate-50", "--rate-100"].map(colour);
  return Array.from({ length: 101 }, (_, at) => {
    const from = at < 50 ? 0 : 1;
    const part = (at - from * 50) / 50;
    return `rgb(${stops[from].map((value, channel) => Math.round(value + (stops[from + 1][channel] - value) * part)).join(" ")})`;
  });
}
