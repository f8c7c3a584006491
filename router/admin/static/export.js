// Saves what a chart shows: its numbers as CSV, its picture as PNG.

import { one } from "./dom.js";

/** Rows of numbers, the oldest first; times as ISO 8601 in UTC, whatever the page shows. */
export function saveTable(name, headings, items, values) {
  const rows = items.map((item) => [new Date(item.time * 1000).toISOString(), ...values(item)]);
  const lines = [headings, ...rows].map((row) => row.map(cell).join(","));
  save(name, "csv", new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
}

// A spreadsheet would run what begins like a formula.
const cell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\r\n]/.test(text) || /^[=+@]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

/** The chart in twice its size, with the colours of the theme that is on. */
export async function saveChart(name, svg) {
  const copy = svg.cloneNode(true);
  const originals = svg.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, at) => {
    const style = getComputedStyle(originals[at]);
    for (const property of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family"])
      element.setAttribute(property, style.getPropertyValue(property));
  });
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([copy.outerHTML], { type: "image/svg+xml" }));
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = 2 * width;
  canvas.height = 2 * height;
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(one(".card")).backgroundColor;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  canvas.toBlob((blob) => save(name, "png", blob));
}

function save(name, kind, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `warmroute ${name.toLowerCase()} ${new Date().toISOString().slice(0, 16).replaceAll(":", "")}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
