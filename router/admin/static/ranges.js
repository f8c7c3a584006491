// Which stretch of time the charts show: one choice for all of them.

import { h } from "./dom.js";

const RANGES = { "15 min": [900, 20], "1 hour": [3600, 60] };
const [SHORT, LONG] = Object.keys(RANGES);

/** The choice. `changed()` is called when the operator takes another one. */
export class Range {
  #chosen = false;

  constructor(changed) {
    this.inputs = [SHORT, LONG].map((value) =>
      h("input", {
        type: "radio",
        name: "range",
        value,
        checked: value === LONG,
        change: () => {
          this.#chosen = true;
          changed();
        },
      }),
    );
    this.element = h(
      "fieldset",
      { class: "segments", "aria-label": "Time range" },
      ...this.inputs.map((input) => h("label", {}, input, h("span", {}, input.value))),
    );
  }

  /** Groups of the history in the chosen range; of a young one the short range, until somebody chooses. */
  groups(history) {
    if (!this.#chosen) this.inputs[history.age > RANGES[SHORT][0] ? 1 : 0].checked = true;
    return history.groups(...RANGES[this.inputs.find((input) => input.checked).value]);
  }
}
