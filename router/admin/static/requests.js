// The latest requests as they end. Each links to the explanation of its decision.

import { get } from "./api.js";
import { h, one, put, region, table } from "./dom.js";
import { clock, compact, count, milliseconds, moment, percent } from "./format.js";
import { LABELS } from "./reasons.js";
import { choose, chosen, LABELS as FILTERS, onChoice } from "./state.js";

const KEPT = 100;
const REMEMBERED = 1000; // what a router has, for looking back
const OUTCOMES = ["ok", "refused", "failed", "broken", "cancelled"];
const SHOWN = 50;

export class RequestPanel {
  #requests = [];
  constructor() {
    this.search = h("input", {
      type: "search",
      placeholder: "Filter, or a request id and Enter",
      "aria-label": "Request id or filter",
      spellcheck: "false",
      autocomplete: "off",
      value: chosen("find"),
      input: () => choose({ find: this.search.value }),
    });
    this.outcome = h(
      "select",
      { "aria-label": "Filter by outcome", change: ({ target }) => choose({ outcome: target.value }) },
      h("option", { value: "" }, "All outcomes"),
      ...OUTCOMES.map((value) => h("option", { value }, value)),
    );
    this.window = h("button", { class: "tag", title: "Show all times", click: () => choose({ from: "", to: "" }) });
    onChoice((changes) => {
      if ("from" in changes) this.load();
      else this.#draw();
    });
    this.shown = h("span", { class: "small muted" });
    this.body = h("tbody");
    const columns = [
      ["Request"],
      ["Time", "wide"],
      ["Model", "wide"],
      ["Replica", "wide"],
      ["Prompt", "n wide"],
      ["Delivered", "n"],
      ["First token", "n"],
      ["Main miss"],
      ["Outcome"],
    ];
    this.table = region("Latest requests", "scroll tall", table("dense", "Latest requests", columns, this.body));
    this.empty = h("p", { class: "empty" });
    one("#request-tools").append(
      h("form", { role: "search", submit: (event) => this.#find(event) }, this.search),
      this.outcome,
      this.window,
      this.shown,
    );
    one("#request-list").append(this.table, this.empty);
  }

  async load() {
    this.#requests = (await get(`requests?limit=${chosen("from") ? REMEMBERED : KEPT}`)).requests;
    this.#draw();
  }

  /** Take requests that have just ended, newest first. */
  add(requests) {
    const known = new Set(requests.map(({ request_id: id }) => id));
    this.#requests = [...requests, ...this.#requests.filter(({ request_id: id }) => !known.has(id))].slice(
      0,
      chosen("from") ? REMEMBERED : KEPT,
    );
    this.#draw();
  }

  #find(event) {
    event.preventDefault();
    const id = this.search.value.trim();
    if (id) location.hash = `request/${encodeURIComponent(id)}`;
  }

  #draw() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [from, to, outcome] = ["from", "to", "outcome"].map(chosen);
    this.outcome.value = outcome;
    this.window.hidden = !from;
    put(this.window, from ? `ended ${moment(Number(from))} to ${clock(Number(to))} ✕` : "");
    const found = this.#requests.filter((request) => {
      const ended = request.time + request.duration_ms / 1000;
      if (from && !(ended >= Number(from) && ended < Number(to))) return false;
      if (outcome && request.outcome !== outcome) return false;
      if (FILTERS.some((name) => chosen(name) && request[name] !== chosen(name))) return false;
      const text = [
        request.request_id,
        request.model,
        request.asked_model,
        request.error,
        request.status,
        request.replica,
        request.tenant,
        request.outcome,
        request.policy,
        LABELS[request.main_miss],
      ]
        .join(" ")
        .toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const narrowed = words.length || from || outcome || FILTERS.some(chosen);
    put(this.shown, narrowed ? `${count(found.length)} of ${count(this.#requests.length)}` : "");
    this.empty.hidden = found.length > 0;
    this.table.hidden = !found.length;
    put(
      this.empty,
      from
        ? "None of the requests that this router remembers ended then. It keeps its last 1,000 and a sample of other routers' requests."
        : narrowed
          ? "None of the latest requests matches. Press Enter to look for a request with exactly this id."
          : "No requests yet. As soon as one has been answered it appears here.",
    );
    const focused = document.activeElement?.closest?.("[data-request]")?.dataset.request;
    const there = new Map([...this.body.children].map((row) => [row.dataset.request, row]));
    this.body.replaceChildren(
      ...found.slice(0, SHOWN).map((request) => there.get(request.request_id) ?? row(request)),
    );
    if (focused && this.body.isConnected)
      this.body.querySelector(`[data-request="${CSS.escape(focused)}"] a`)?.focus({ preventScroll: true });
  }
}

function row(request) {
  const {
    request_id: id,
    prompt_tokens: prompt,
    delivered_tokens: delivered,
    main_miss: miss,
    outcome,
  } = request;
  return h(
    "tr",
    {
      "data-request": id,
      click: (event) => {
        if (!event.target.closest("a") && !getSelection().toString())
          location.hash = `request/${encodeURIComponent(id)}`;
      },
    },
    h(
      "th",
      { scope: "row" },
      h("a", { href: `#request/${encodeURIComponent(id)}`, class: "mono", title: id }, shortId(id)),
    ),
    h("td", { class: "wide" }, clock(request.time)),
    h(
      "td",
      { class: "wide clip", title: request.asked_model },
      request.model || (request.asked_model ? h("span", { class: "problem" }, `“${request.asked_model}”`) : "–"),
    ),
    h("td", { class: "wide" }, request.replica || "–"),
    h("td", { class: "n wide" }, compact(prompt)),
    h("td", { class: "n" }, delivered === null || !prompt ? "–" : percent(delivered / prompt)),
    h("td", { class: "n" }, milliseconds(request.ttft_ms)),
    h(
      "td",
      {},
      miss ? h("span", { class: "reason-name" }, h("span", { class: `key ${miss}` }), LABELS[miss]) : "–",
    ),
    h(
      "td",
      { title: request.error || null },
      outcomeBadge(outcome, outcome === "ok" ? outcome : `${outcome} ${request.status}`),
    ),
  );
}

/** Enough of an id to recognise it; the whole one is in the title and the address. */
const shortId = (id) => (id.length > 18 ? `${id.slice(0, 17)}…` : id);

/** How a request ended; only what went wrong stands out. */
export function outcomeBadge(outcome, text = outcome) {
  const tone = { ok: null, cancelled: "warn" }[outcome];
  return h(
    "span",
    outcome === "ok" ? { class: "muted" } : { class: "badge", "data-tone": tone ?? "bad" },
    text,
  );
}
