// What is wrong, since when, and what to do; below it what was.

import { h, keyed, one, put } from "./dom.js";
import { age, duration, moment, plural } from "./format.js";
import { choose } from "./state.js";
import { NAMES } from "./runbook.js";

export class AlarmPanel {
  constructor() {
    const list = h("ul", { class: "alarms", "aria-live": "polite", "aria-label": "Alarms that hold" });
    this.sync = keyed(list, keyOf, alarmRow);
    this.quiet = h("p", { class: "badge", "data-tone": "good" }, "No alarms");
    this.count = h("summary");
    this.past = h("ul", { class: "past small" });
    this.history = h("details", { class: "past" }, this.count, this.past);
    one("#alarms").append(this.quiet, list, this.history);
  }

  overview({ alarms, past_alarms: past = [], time, uptime_seconds: uptime }) {
    this.quiet.hidden = alarms.length > 0;
    this.sync(alarms.map((alarm) => ({ ...alarm, now: time })));
    this.history.hidden = !past.length;
    put(this.count, `${plural(past.length, "alarm")} over, in the ${duration(uptime)} that this router has run`);
    if (this.last === JSON.stringify(past)) return;
    this.last = JSON.stringify(past);
    this.past.replaceChildren(
      ...past.map(({ kind, text, since, until }) =>
        h(
          "li",
          {},
          h("span", { class: "muted" }, `${moment(since)}, for ${duration(Math.max(1, Math.round(until - since)))}: `),
          h("a", { href: `#runbook/${kind}` }, NAMES[kind] ?? kind),
          ` ${text}`,
        ),
      ),
    );
  }
}

const keyOf = ({ kind, replica, model, since }) => `${kind} ${replica} ${model} ${since}`;

function alarmRow({ kind, serious, replica, model, since }) {
  const text = h("span");
  const for_ = h("span", { class: "muted" });
  const links = [h("a", { href: `#runbook/${kind}` }, "What to do")];
  if (replica)
    links.push(
      h("a", { href: "#replicas", click: () => choose({ replica }) }, "Show its traffic"),
    );
  if (model) links.push(h("a", { href: "#fleet", click: () => choose({ model }) }, "Show its traffic"));
  return {
    element: h(
      "li",
      { class: "notice", "data-tone": serious ? "bad" : "warn" },
      h("p", {}, h("strong", {}, NAMES[kind] ?? kind), " ", text, " ", for_),
      h("span", { class: "links" }, ...links),
    ),
    update: (now) => {
      put(text, now.text);
      put(for_, `since ${moment(since)} (${age(now.now - since)})`);
    },
  };
}

/** Whether anything serious holds: then nothing is called healthy. */
export const isSerious = ({ alarms, fleet }) =>
  alarms.some(({ serious, kind }) => serious || kind === "lease") || fleet.ready + fleet.draining < fleet.replicas;
