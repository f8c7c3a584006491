// A rate over the chosen range, as small as a word.

import { mark, s } from "./dom.js";
import { runs } from "./linechart.js";

const WIDTH = 120;
const HEIGHT = 36;

/** An SVG element and a function that draws rates (null: none) into it. */
export function sparkline() {
  const path = s("path");
  const element = s(
    "svg",
    { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { class: "base", d: `M0 ${HEIGHT - 1}H${WIDTH}` }),
    path,
  );
  const draw = (values) => {
    const x = (at) => (((at + 0.5) / values.length) * WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - 2 - value * (HEIGHT - 4)).toFixed(1);
    const lines = runs(
      values.map((rate) => ({ rate })),
      "rate",
    );
    mark(
      path,
      "d",
      lines
        .map(
          (run) =>
            `M${run.map(([at, value]) => `${x(at)} ${y(value)}`).join("L")}${run.length === 1 ? "h0.01" : ""}`,
        )
        .join("") || "M0 0",
    );
  };
  return { element, draw };
}
