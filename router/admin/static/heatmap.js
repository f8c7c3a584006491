// Replica by time on a canvas: how warm each one was.

import { colour, h, mark, vary } from "./dom.js";
import { count, moment, percent, timeTicks } from "./format.js";
import { hideTip, showTip } from "./tip.js";

const MANY = 24;
const ROW = 22; // pixels
const LOW_ROW = 14; // of many: still high enough for a name

/** The panel. `show(items, ids)` draws it anew. */
export class HeatMap {
  #groups = [];
  #ids = [];
  #cell = null;
  #row = ROW;

  constructor(parent) {
    this.names = h("div", { class: "names", "aria-hidden": "true" });
    this.canvas = h("canvas", {
      tabindex: "0",
      role: "slider",
      "aria-label": "Delivered hit rate of each replica over time. Arrow keys move.",
      "aria-valuemin": "0",
      "aria-valuenow": "0",
      "aria-valuetext": "nothing chosen",
      pointermove: (event) => this.#point(event),
      pointerdown: (event) => this.#point(event),
      pointerleave: () => this.#leave(),
      blur: () => this.#leave(),
      keydown: (event) => this.#key(event),
    });
    this.axis = h("div", { class: "axis", "aria-hidden": "true" });
    this.grid = h("div", { class: "heat" }, this.names, this.canvas);
    this.view = h("div", { class: "heat-view" }, this.grid);
    this.empty = h("p", { class: "empty" }, "No replica has had traffic in this range.");
    this.head = h(
      "div",
      { class: "chart-head" },
      h("span", { class: "scale", "aria-hidden": "true" }, "cold 0%", h("i"), "100% warm"),
    );
    parent.append(this.head, this.view, this.axis, this.empty);
    new ResizeObserver(() => this.#draw()).observe(this.grid);
    document.addEventListener("themechange", () => this.#draw());
  }

  show(items, ids) {
    this.#groups = items;
    this.#ids = ids;
    this.#draw();
  }

  #draw() {
    const quiet = !this.#ids.length || !this.#groups.length;
    this.empty.hidden = !quiet;
    this.view.hidden = this.axis.hidden = this.head.hidden = quiet;
    if (quiet) return;
    this.#row = this.#ids.length > MANY ? LOW_ROW : ROW;
    vary(this.grid, "--row", `${this.#row}px`);
    if (this.names.childElementCount !== this.#ids.length || this.names.lastIds !== this.#ids.join()) {
      this.names.lastIds = this.#ids.join();
      this.names.replaceChildren(...this.#ids.map((id) => h("div", { title: id }, id)));
    }
    const width = Math.floor(this.canvas.getBoundingClientRect().width);
    if (!width) return;
    const [{ time: begin, width: step }] = this.#groups;
    const end = begin + step * this.#groups.length;
    const left = this.canvas.offsetLeft;
    this.axis.replaceChildren(
      ...timeTicks(begin, end, Math.max(2, Math.floor(width / 90))).map(([time, text]) => {
        const tick = h("span", {}, text);
        vary(tick, "left", `${left + ((time - begin) / (end - begin)) * width}px`);
        return tick;
      }),
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
    const band = width / this.#groups.length;
    context.imageSmoothingEnabled = false;
    context.drawImage(this.#cells(), 0, 0, width, height);
    this.#ids.forEach((_, row) => context.clearRect(0, (row + 1) * this.#row - 1, width, 1));
    // Where columns are thin a gap would be half the picture.
    if (band >= 3) this.#groups.forEach((_, at) => context.clearRect(Math.round((at + 1) * band) - 1, 0, 1, height));
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

  /** A picture with one pixel for each cell: thousands of rectangles take far longer. */
  #cells() {
    const palette = makePalette();
    const quiet = pixel(colour("--sunken"));
    const picture = new OffscreenCanvas(this.#groups.length, this.#ids.length);
    const pixels = new ImageData(picture.width, picture.height);
    const cells = new Uint32Array(pixels.data.buffer);
    this.#groups.forEach((group, column) => {
      this.#ids.forEach((id, row) => {
        const sums = group.replicas.get(id);
        cells[row * picture.width + column] = sums?.[1]
          ? (palette[Math.round((sums[2] / sums[1]) * 100)] ?? palette[100])
          : quiet;
      });
    });
    picture.getContext("2d").putImageData(pixels, 0, 0);
    return picture;
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
    const [requests, prompt, delivered] = replicas.get(this.#ids[row]) ?? [0, 0, 0];
    const rows = [
      ["Delivered", percent(prompt ? delivered / prompt : null)],
      ["Requests", count(requests)],
      ["Prompt tokens", count(prompt)],
    ];
    const title = `${this.#ids[row]}, ${moment(time)}`;
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

/** A colour as image data has it: red, green, blue and opaque, from the lowest byte up. */
const pixel = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;

/** 101 colours, one per percent. */
function makePalette() {
  const stops = ["--rate-0", "--rate-50", "--rate-100"].map(colour);
  return Array.from({ length: 101 }, (_, at) => {
    const from = at < 50 ? 0 : 1;
    const part = (at - from * 50) / 50;
    return pixel(stops[from].map((value, channel) => Math.round(value + (stops[from + 1][channel] - value) * part)));
  });
}
