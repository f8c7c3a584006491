// One replica as a card: how warm, how busy, how full; drain and reset.

import { change, part } from "./api.js";
import { confirmed } from "./dialogs.js";
import { h, mark, put, vary } from "./dom.js";
import { age, compact, count, moment, number, percent } from "./format.js";
import { sparkline } from "./sparkline.js";

export const TONES = { ready: "good", draining: "warn", asleep: "warn", starting: "warn", unreachable: "bad" };

/** The state an operator should see first. */
export const stateOf = (replica) =>
  replica.reachable === false ? "unreachable" : replica.drained ? "draining" : replica.state;

/** Part of the KV cache's blocks that routers know of; null when the capacity is not known. */
export const fullness = ({ owned_blocks: owned, capacity_blocks: capacity }) =>
  capacity ? owned / capacity : null;

const RATES = [
  ["delivered", "Delivered"],
  ["predicted", "Predicted"],
  ["available", "Available"],
];
const FIGURES = [
  ["Running", ({ load }) => count(load.running)],
  ["Waiting", ({ load }) => count(load.waiting)],
  ["Booked here", ({ load }) => count(load.booked)],
  ["By others", ({ load }) => count(load.booked_by_others)],
  ["Queued tokens", ({ load }) => compact(load.queued_tokens)],
  ["Evictions/s", ({ evictions_per_second: rate }) => number(rate)],
  ["Ring share", ({ ring_share: share }) => percent(share)],
  [
    "Last event",
    ({ last_event_age_seconds: seconds }) =>
      seconds === null ? "none yet" : seconds < 1 ? "now" : `${age(seconds)} ago`,
  ],
  ["Pace", ({ pace }) => `${pace.toFixed(2)}×`],
  ["Epoch since", ({ epoch }) => since(epoch)],
];

/** An epoch is named after the millisecond in which it began. */
const since = (epoch) => (epoch ? moment(epoch / 1000) : "–");

export function replicaCard(first) {
  const { element: spark, draw } = sparkline();
  const state = h("span", { class: "badge" });
  const alarms = h("p", { class: "problem small" });
  const model = h("p", { class: "small muted clip" });
  const quiet = h("p", { class: "small muted" }, "No traffic for 5 minutes: rates of the last hour.");
  const rates = RATES.map(([name, label]) => ({ name, value: h("dd"), label }));
  const kv = bar("KV cache in use", 0.95);
  const owned = bar("Blocks owned", Infinity); // a cache that is full is as it should be
  const figures = FIGURES.map(([label, read]) => ({ read, value: h("dd"), label }));
  let replica = first;
  const { drain, reset } = actions(() => replica);
  const element = h(
    "article",
    { class: "card replica", "aria-label": `Replica ${first.replica}`, "data-replica": first.replica },
    h("header", {}, h("h3", { class: "clip", title: first.replica }, first.replica), state),
    model,
    alarms,
    h(
      "dl",
      { class: "three" },
      ...rates.map(({ label, value, name }) => h("div", { class: name }, h("dt", {}, label), value)),
    ),
    quiet,
    h(
      "figure",
      { class: "trend" },
      spark,
      h("figcaption", { class: "sr" }, "Delivered hit rate over the chosen range"),
    ),
    h("div", { class: "bars" }, kv.element, owned.element),
    h(
      "dl",
      { class: "figures-list" },
      ...figures.map(({ label, value }) => h("div", {}, h("dt", {}, label), value)),
    ),
    h("footer", {}, drain, reset),
  );

  const update = (now) => {
    replica = now;
    const shown = stateOf(now);
    put(state, shown);
    mark(state, "data-tone", TONES[shown]);
    put(model, [now.model, ...now.adapters].join(" + "));
    put(alarms, now.alarms.join(" "));
    quiet.hidden = now.recent.delivered !== null || now.hour.delivered === null;
    for (const { name, value } of rates) put(value, percent(now.recent[name] ?? now.hour[name]));
    kv.show(now.load.kv_usage, percent(now.load.kv_usage, 0));
    owned.show(fullness(now), `${count(now.owned_blocks)} of ${count(now.capacity_blocks)}`);
    for (const { read, value } of figures) put(value, read(now));
    put(drain, now.drained ? "Undrain" : "Drain");
  };
  return { element, update, draw };
}

function bar(label, limit) {
  const value = h("span");
  const meter = h("span", { class: "meter" });
  return {
    element: h(
      "div",
      {},
      h("div", { class: "bar-head" }, h("span", { class: "muted" }, label), value),
      meter,
    ),
    show: (share, text) => {
      put(value, text);
      vary(meter, "--part", Math.min(share ?? 0, 1).toFixed(3));
      vary(meter, "--fill", share > limit ? "var(--warn)" : "var(--line-strong)");
    },
  };
}

/** The buttons that change a replica; each asks first and says what will happen. */
function actions(current) {
  const drain = h("button", {
    click: () => {
      const { replica, drained } = current();
      const path = `replicas/${part(replica)}/drain`;
      confirmed(
        drained
          ? {
              title: `Undrain ${replica}?`,
              text: "It takes new requests again, from all routers.",
              button: "Undrain",
              go: () => change("DELETE", path),
            }
          : {
              title: `Drain ${replica}?`,
              text: "It gets no new requests from any router. Those that run there now finish. Its cache stays until the engine stops.",
              button: "Drain",
              go: () => change("PUT", path),
            },
      );
    },
  });
  const reset = h(
    "button",
    {
      class: "ghost",
      click: () => {
        const { replica } = current();
        confirmed({
          title: `Reset ownership of ${replica}?`,
          text: "All routers forget which blocks it holds and read them again. Until then, usually less than a second, it counts as cold. The engine's cache itself is not touched.",
          button: "Reset",
          go: () => change("POST", `replicas/${part(replica)}/reset`),
        });
      },
    },
    "Reset ownership",
  );
  return { drain, reset };
}
