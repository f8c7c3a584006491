// What to look at: range of time, filters, time zone, and whether the page goes on.

import { h, mark, one, put } from "./dom.js";
import { RANGES } from "./trends.js";
import { choose, chosen, LABELS, onChoice } from "./state.js";

const ANY = { model: "All models", tenant: "All tenants", replica: "All replicas", arm: "Both arms" };

export class Controls {
  constructor() {
    this.selects = LABELS.map((name) =>
      h("select", { "aria-label": `Filter by ${name}`, change: ({ target }) => choose({ [name]: target.value }) }),
    );
    this.clear = h(
      "button",
      { class: "ghost", click: () => choose(Object.fromEntries(LABELS.map((name) => [name, ""]))) },
      "Clear filters",
    );
    this.pause = h("button", { click: () => choose({ paused: chosen("paused") ? "" : "1" }) });
    one("#controls").append(
      radios("Time range", "range", RANGES.map(([label, seconds]) => [String(seconds), label])),
      ...this.selects,
      this.clear,
      h("span", { class: "push" }),
      radios("Time zone", "tz", [
        ["local", "Local"],
        ["utc", "UTC"],
      ]),
      this.pause,
    );
    onChoice(() => this.#draw());
    this.show([[], [], [], []]);
  }

  /** Offer these models, tenants, replicas and arms. */
  show(labels) {
    LABELS.forEach((name, at) => {
      const values = [...new Set([...labels[at], chosen(name)])].filter(Boolean).sort();
      const text = values.join("\n");
      const select = this.selects[at];
      if (select.lastValues !== text) {
        select.lastValues = text;
        select.replaceChildren(
          h("option", { value: "" }, ANY[name]),
          ...values.map((value) => h("option", { value }, value)),
        );
      }
      select.hidden = !values.length;
    });
    this.#draw();
  }

  #draw() {
    LABELS.forEach((name, at) => {
      this.selects[at].value = chosen(name);
      mark(this.selects[at], "data-on", chosen(name) ? "" : null);
    });
    this.clear.hidden = !LABELS.some((name) => chosen(name));
    const paused = Boolean(chosen("paused"));
    put(this.pause, paused ? "Resume" : "Pause");
    mark(this.pause, "aria-pressed", String(paused));
    for (const input of document.querySelectorAll("#controls input")) input.checked = chosen(input.name) === input.value;
  }
}

function radios(label, name, values) {
  return h(
    "fieldset",
    { class: "segments", "aria-label": label },
    ...values.map(([value, text]) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name, value, change: () => choose({ [name]: value }) }),
        h("span", {}, text),
      ),
    ),
  );
}
