// One request, explained: where it went and why, what was predicted and what happened.

import { get, part } from "./api.js";
import { closeSheet, fillSheet, openSheet } from "./dialogs.js";
import { h, region, table, vary } from "./dom.js";
import { compact, count, milliseconds, moment, number, percent, plural } from "./format.js";
import { divergenceSentence, LABELS, REASONS } from "./reasons.js";
import { outcomeBadge } from "./requests.js";
import { runbookSection } from "./runbook.js";

const PREFIX = "#request/";
const RUNBOOK = "#runbook/";

/** Open and close the sheet as the address says. */
export function followAddress() {
  const follow = () => {
    if (location.hash.startsWith(PREFIX)) explain(decodeURIComponent(location.hash.slice(PREFIX.length)));
    else if (location.hash.startsWith(RUNBOOK))
      openSheet("What to do", runbookSection(location.hash.slice(RUNBOOK.length)), left);
    else closeSheet();
  };
  addEventListener("hashchange", follow);
  follow();
}

/** The address of a closed sheet is that of the page. */
function left() {
  if (location.hash.startsWith(PREFIX) || location.hash.startsWith(RUNBOOK))
    history.replaceState(null, "", location.pathname + location.search);
}

async function explain(id) {
  openSheet("Request", [h("p", { class: "muted" }, "Looking it up …")], left);
  try {
    fillSheet("Request", sections(await get(`requests/${part(id)}`)));
  } catch (error) {
    fillSheet("Request", [
      h("p", { class: "mono" }, id),
      h(
        "p",
        {},
        error.status === 404
          ? "No router remembers this request. Only the latest ones are kept."
          : error.message,
      ),
    ]);
  }
}

function sections(request) {
  return [head(request), decision(request), tokens(request), timing(request), candidates(request)].filter(
    Boolean,
  );
}

function head(request) {
  const { request_id: id, outcome, status, error } = request;
  const facts = [
    moment(request.time),
    request.model || (request.asked_model && `asked for “${request.asked_model}”`),
    request.path,
    request.stream ? "streamed" : "",
    request.tenant && `tenant ${request.tenant}`,
    `policy ${request.policy}${request.arm === "control" ? " (control arm)" : ""}`,
    request.attempts > 1 ? plural(request.attempts, "attempt") : "",
  ];
  return h(
    "section",
    {},
    h("p", { class: "mono id" }, id),
    h("p", { class: "small muted" }, facts.filter(Boolean).join(" · ")),
    h("p", {}, outcomeBadge(outcome, `${outcome}, HTTP ${status}`)),
    error ? h("p", { class: "problem" }, error) : null,
  );
}

const WHY = {
  warm: "it held the most of this prompt, and its queue did not cost more than computing again",
  cold: "no replica held any of this prompt, so consistent hashing and load decided",
  diverted: "another replica held more, but waiting there would have cost more than computing again",
};

/** The decision and its outcome in two sentences. */
function decision(request) {
  const {
    replica,
    reason,
    prompt_tokens: prompt,
    predicted_tokens: predicted,
    delivered_tokens: delivered,
  } = request;
  const lines = [
    replica
      ? `Sent to ${replica}: ${WHY[reason] ?? `the policy's reason was “${reason}”`}.`
      : "It was sent nowhere.",
  ];
  if (delivered === null)
    lines.push(
      `${count(predicted)} of ${count(prompt)} prompt tokens were expected there; the engine did not say how many it had.`,
    );
  else if (delivered === predicted)
    lines.push(`As predicted, ${count(delivered)} of ${count(prompt)} prompt tokens were cached.`);
  else
    lines.push(
      `${count(predicted)} of ${count(prompt)} prompt tokens were expected in its cache, and ${count(delivered)} were there.`,
    );
  if (!request.caches_seen) lines.push("No cache could be seen when it was decided.");
  return h("p", { class: "lead" }, lines.join(" "));
}

function tokens(request) {
  const { prompt_tokens: prompt, misses, divergence } = request;
  const levels = [
    ["Available", request.available_tokens],
    ["Predicted", request.predicted_tokens],
    ["Delivered", request.delivered_tokens],
  ];
  const parts = misses && REASONS.filter(([name]) => misses[name]);
  return h(
    "section",
    {},
    h("h3", {}, "Prompt tokens"),
    h(
      "dl",
      { class: "three" },
      ...levels.map(([label, value]) =>
        h(
          "div",
          { class: label.toLowerCase() },
          h("dt", {}, label),
          h(
            "dd",
            {},
            value === null ? "–" : percent(prompt ? value / prompt : null),
            h("span", { class: "small muted" }, ` ${compact(value)}`),
          ),
        ),
      ),
    ),
    misses
      ? h(
          "div",
          {
            class: "parts",
            role: "img",
            "aria-label": `${count(request.delivered_tokens)} cached, ${parts.map(([name, label]) => `${count(misses[name])} ${label}`).join(", ")}`,
          },
          segment("", request.delivered_tokens),
          ...parts.map(([name]) => segment(name, misses[name])),
        )
      : null,
    misses
      ? h(
          "ul",
          { class: "legend" },
          entry("", "From the cache", request.delivered_tokens, prompt),
          ...parts.map(([name]) => entry(name, LABELS[name], misses[name], prompt)),
        )
      : null,
    misses
      ? h(
          "ul",
          { class: "small muted" },
          ...parts.map(([, label, meaning]) => h("li", {}, `${label}: ${meaning}`)),
        )
      : null,
    divergence ? h("p", { class: "callout" }, divergenceSentence(divergence)) : null,
  );
}

function segment(name, value) {
  const element = h("i", { class: name });
  vary(element, "--part", value);
  return element;
}

const entry = (name, label, value, prompt) =>
  h(
    "li",
    {},
    h("span", { class: `key ${name}` }),
    label,
    h("strong", {}, count(value)),
    h("span", { class: "muted" }, percent(prompt ? value / prompt : null)),
  );

function timing(request) {
  const steps = [
    ["Render, tokenise, keys", request.prepare_ms],
    ["Decision", request.decision_ms],
    ["Held in the router", request.held_ms],
    ...(request.stream ? [["First token", request.ttft_ms]] : []),
    ["Whole request", request.duration_ms],
  ].map(([label, value]) => [label, milliseconds(value)]);
  return h(
    "section",
    {},
    h("h3", {}, "Time"),
    h(
      "dl",
      { class: "figures-list two" },
      ...[...steps, ["Tokens generated", count(request.completion_tokens)]].map(([label, value]) =>
        h("div", {}, h("dt", {}, label), h("dd", {}, value)),
      ),
    ),
  );
}

function candidates({ candidates: rows, num_candidates: all, prompt_tokens: prompt }) {
  if (!rows.length) return null;
  return h(
    "section",
    {},
    h("h3", {}, "Candidates, cheapest first"),
    region(
      "Candidates",
      "scroll",
      table(
        "dense inner",
        "Replicas that could have served it",
        [["Replica"], ["Cached", "n"], ["Queued", "n"], ["Running", "n"], ["Cost, tokens", "n"]],
        h("tbody", {}, ...rows.map((row) => candidate(row, prompt))),
      ),
    ),
    all > rows.length
      ? h(
          "p",
          { class: "small muted" },
          `${count(rows.length)} of ${count(all)} shown: the cheapest, the chosen one and the one that held most.`,
        )
      : null,
  );
}

function candidate(row, prompt) {
  const overlap = h("span", { class: "meter tall" });
  vary(overlap, "--part", prompt ? Math.min(row.cached_tokens / prompt, 1).toFixed(3) : 0);
  vary(overlap, "--fill", "var(--accent)");
  return h(
    "tr",
    { class: row.chosen ? "chosen" : row.eligible ? null : "out" },
    h(
      "th",
      { scope: "row" },
      row.replica,
      " ",
      row.chosen ? h("span", { class: "tag", "data-tone": "accent" }, "chosen") : null,
      row.last_replica
        ? h("span", { class: "tag", title: "Served this conversation's last turn" }, "last turn")
        : null,
      row.eligible ? null : h("span", { class: "tag" }, "not eligible"),
    ),
    h("td", { class: "n overlap" }, h("span", {}, compact(row.cached_tokens)), overlap),
    h("td", { class: "n" }, compact(row.queued_tokens)),
    h("td", { class: "n" }, count(row.running)),
    h("td", { class: "n" }, row.cost === null ? "–" : number(row.cost)),
  );
}
