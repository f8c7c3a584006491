// A running experiment: both arms side by side.

import { h, one, put, region, table } from "./dom.js";
import { compact, count, duration, percent, plural, points } from "./format.js";

const ROWS = [
  ["Requests", (arm) => count(arm.requests)],
  ["Failures", (arm) => count(arm.failures)],
  ["Prompt tokens", (arm) => compact(arm.prompt_tokens)],
  ["Delivered hit rate", (arm) => percent(arm.hit_rate), (difference) => difference.hit_rate, points],
  [
    "First token, mean",
    (arm) => duration(arm.ttft_seconds.mean),
    (difference) => difference.ttft_mean_seconds,
    signed,
  ],
  ["First token, p50", (arm) => duration(arm.ttft_seconds.p50)],
  ["First token, p95", (arm) => duration(arm.ttft_seconds.p95)],
  ["First token, p99", (arm) => duration(arm.ttft_seconds.p99)],
];

export class ExperimentPanel {
  #last = "";

  overview({ experiment }) {
    const text = JSON.stringify(experiment);
    if (text === this.#last) return;
    this.#last = text;
    put(
      one("#experiment-line"),
      experiment
        ? `${experiment.name}: ${percent(experiment.share, 0)} of conversations go to the control, since ${new Date(experiment.since).toLocaleString("en")}, counted by ${plural(experiment.routers, "router")}.`
        : "",
    );
    one("#experiment-arms").replaceChildren(
      experiment
        ? arms(experiment)
        : h(
            "p",
            { class: "empty" },
            "None is running. An experiment gives a share of conversations to another policy and compares both: ",
            h("code", {}, "PUT /admin/experiment"),
            ".",
          ),
    );
  }
}

function arms({ arms: { default: ours, control }, default_minus_control: difference }) {
  const columns = [
    [],
    [`${ours.policy} (default)`, "n"],
    [`${control.policy} (control)`, "n"],
    ["Difference, 95% interval", "n"],
  ];
  return region(
    "Experiment arms",
    "scroll",
    table(
      "dense",
      "Both arms of the experiment",
      columns,
      h(
        "tbody",
        {},
        ...ROWS.map(([label, read, pick, write]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, label),
            h("td", { class: "n" }, read(ours)),
            h("td", { class: "n" }, read(control)),
            h("td", { class: "n" }, pick ? interval(pick(difference), write) : ""),
          ),
        ),
      ),
    ),
  );
}

function interval(value, write) {
  if (!value) return h("span", { class: "muted" }, "too few conversations yet");
  const certain = value.low > 0 || value.high < 0;
  return h(
    "span",
    { class: certain ? null : "muted" },
    `${write(value.estimate)} (${write(value.low)} to ${write(value.high)})`,
  );
}

function signed(seconds) {
  return `${seconds < 0 ? "−" : "+"}${duration(Math.abs(seconds))}`;
}
