// The latest requests as they end. Each links to the explanation of its decision.

import { get } from "./api.js";
import { h, one, put, region, table } from "./dom.js";
import { clock, compact, count, milliseconds, percent } from "./format.js";
import { LABELS } from "./reasons.js";

const KEPT = 100;
const SHOWN = 50;

export class RequestPanel {
  #requests = [];
  #paused = false;

  constructor() {
    this.search = h("input", {
      type: "search",
      placeholder: "Filter, or a request id and Enter",
      "aria-label": "Request id or filter",
      spellcheck: "false",
      autocomplete: "off",
      input: () => this.#draw(),
    });
    this.pause = h(
      "button",
      { class: "push", "aria-pressed": "false", click: () => this.#toggle() },
      "Pause",
    );
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
      this.shown,
      this.pause,
    );
    one("#request-list").append(this.table, this.empty);
  }

  async load() {
    this.#requests = (await get(`requests?limit=${SHOWN}`)).requests;
    this.#draw();
  }

  /** Take requests that have just ended, newest first. */
  add(requests) {
    const known = new Set(requests.map(({ request_id: id }) => id));
    this.#requests = [...requests, ...this.#requests.filter(({ request_id: id }) => !known.has(id))].slice(
      0,
      KEPT,
    );
    if (!this.#paused) this.#draw();
  }

  #toggle() {
    this.#paused = !this.#paused;
    this.pause.setAttribute("aria-pressed", String(this.#paused));
    put(this.pause, this.#paused ? "Resume" : "Pause");
    if (!this.#paused) this.#draw();
  }

  #find(event) {
    event.preventDefault();
    const id = this.search.value.trim();
    if (id) location.hash = `request/${encodeURIComponent(id)}`;
  }

  #draw() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.#requests.filter((request) => {
      const text = [
        request.request_id,
        request.model,
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
    put(this.shown, words.length ? `${count(found.length)} of ${count(this.#requests.length)}` : "");
    this.empty.hidden = found.length > 0;
    this.table.hidden = !found.length;
    put(
      this.empty,
      words.length
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
    h("td", { class: "wide clip" }, request.model),
    h("td", { class: "wide" }, request.replica || "–"),
    h("td", { class: "n wide" }, compact(prompt)),
    h("td", { class: "n" }, delivered === null || !prompt ? "–" : percent(delivered / prompt)),
    h("td", { class: "n" }, milliseconds(request.ttft_ms)),
    h(
      "td",
      {},
      miss ? h("span", { class: "reason-name" }, h("span", { class: `key ${miss}` }), LABELS[miss]) : "–",
    ),
    h("td", {}, outcomeBadge(outcome)),
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
