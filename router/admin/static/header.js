// The top of the page: is it live, which policy decides, what could not be read.

import { change } from "./api.js";
import { confirmed } from "./dialogs.js";
import { h, keyed, mark, one, put } from "./dom.js";
import { age, duration } from "./format.js";
import { chosen } from "./state.js";

const STALE_SECONDS = 5;

export class Header {
  #last = 0;
  #lost = null;
  #policy = "";
  #unread = new Map();

  constructor(retry) {
    this.select = one("#policy");
    this.select.addEventListener("change", () => this.#switch(this.select.value));
    this.retry = retry;
    const list = one("#notices");
    this.sync = keyed(
      list,
      ({ key }) => key,
      ({ kind, tone, button }) => {
        const text = h("span");
        return {
          element: h(
            "div",
            { class: "notice", "data-tone": tone },
            h("p", {}, h("strong", {}, kind), " ", text),
            button,
          ),
          update: (now) => put(text, now.text),
        };
      },
    );
    setInterval(() => this.#tick(), 500);
  }

  overview({ policy, version, router, uptime_seconds: uptime }) {
    this.#last = performance.now();
    this.#lost = null;
    this.#policies(policy);
    put(
      one("#foot"),
      `Warmroute ${version} · router ${router.slice(0, 12)} · up ${duration(Math.round(uptime))}`,
    );
    this.#tick();
  }

  /** A part of the page could be read. */
  readable(name) {
    this.#unread.delete(name);
  }

  /** A part of the page could not be read. */
  unreadable(name, { message }) {
    this.#unread.set(name, message);
    this.#tick();
  }

  /** The connection is lost; the next attempt comes in so many seconds. */
  lost(problem, seconds) {
    this.#lost = { problem, until: performance.now() + seconds * 1000 };
    this.#tick();
  }

  #tick() {
    const since = (performance.now() - this.#last) / 1000;
    const stale = this.#last > 0 && (this.#lost !== null || since > STALE_SECONDS);
    mark(one("#main"), "data-stale", stale ? "" : null);
    const status = one("#status");
    const notices = [];
    if (!this.#lost)
      for (const [name, text] of this.#unread)
        notices.push({ key: `unread:${name}`, kind: words(name), text, tone: "warn" });
    if (this.#lost) {
      const left = Math.max(0, Math.ceil((this.#lost.until - performance.now()) / 1000));
      mark(status, "data-state", "lost");
      put(one("#status-text"), left ? `reconnecting in ${left} s` : "reconnecting");
      notices.unshift({
        key: "lost",
        kind: "Connection lost.",
        tone: "bad",
        button: h("button", { click: this.retry }, "Retry now"),
        text: `${this.#lost.problem.message}${this.#last ? " What you see is from before." : ""}`,
      }); // read aloud, so without a countdown
    } else if (this.#last) {
      mark(status, "data-state", stale ? "lost" : chosen("paused") ? "paused" : "live");
      put(
        one("#status-text"),
        stale
          ? `no update for ${age(since)}`
          : chosen("paused")
            ? "paused: this is from before"
            : since < 2
              ? "live"
              : `live, ${age(since)} ago`,
      );
    }
    this.sync(notices);
  }

  #policies({ policy, policies, set_by: by }) {
    if (this.select.options.length !== policies.length)
      this.select.replaceChildren(...policies.map((name) => h("option", { value: name }, name)));
    mark(this.select, "title", by === "admin" ? "Set by an operator" : "From the settings");
    this.select.disabled = false;
    if (policy !== this.#policy && document.activeElement !== this.select) this.select.value = policy;
    this.#policy = policy;
  }

  async #switch(name) {
    const before = this.#policy;
    const done = await confirmed({
      title: `Switch to ${name}?`,
      text: `From the next request on, all routers decide by “${name}” instead of “${before}”. Caches keep what they hold.`,
      button: "Switch policy",
      go: () => change("PUT", "policy", { policy: name }),
    });
    if (!done) this.select.value = this.#policy;
  }
}

const words = (kind) => `${kind[0].toUpperCase()}${kind.slice(1).replaceAll("_", " ")}:`;
