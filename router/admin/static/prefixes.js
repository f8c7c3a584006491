// What many prompts begin with: how long it is and who holds it. Keys, never text.

import { change, get, part } from "./api.js";
import { confirmed } from "./dialogs.js";
import { h, one, region, table } from "./dom.js";
import { compact, count, percent, plural } from "./format.js";

const SHOWN_HOLDERS = 3;

export class PrefixPanel {
  constructor() {
    this.body = h("tbody");
    const columns = [
      ["Key"],
      ["Model", "wide"],
      ["Tokens", "n"],
      ["Share", "n"],
      ["Prompts", "n wide"],
      ["Holders"],
      [],
    ];
    this.table = region("Prefixes in a table", "scroll", table(null, "Top shared prefixes", columns, this.body));
    this.empty = h("p", { class: "empty" }, "No prefix is shared by several prompts yet.");
    one("#prefix-list").append(this.table, this.empty);
  }

  async load() {
    const { prefixes } = await get("prefixes?limit=10");
    this.table.hidden = !prefixes.length;
    this.empty.hidden = prefixes.length > 0;
    if (this.body.contains(document.activeElement)) return; // not under somebody's hands
    this.body.replaceChildren(...prefixes.map((prefix) => this.#row(prefix)));
  }

  #row({ key, model, tokens, holders, share, prompts }) {
    const shown = holders.slice(0, SHOWN_HOLDERS).join(", ");
    const more = holders.length - SHOWN_HOLDERS;
    return h(
      "tr",
      { "data-key": key },
      h("th", { scope: "row" }, h("code", { title: key }, `${key.slice(0, 8)}…`)),
      h("td", { class: "wide" }, model),
      h("td", { class: "n" }, compact(tokens)),
      h("td", { class: "n" }, percent(share)),
      h("td", { class: "n wide" }, count(prompts)),
      h(
        "td",
        { title: holders.join(", ") },
        holders.length ? `${shown}${more > 0 ? ` and ${more} more` : ""}` : "nobody now",
      ),
      h(
        "td",
        { class: "n" },
        h(
          "button",
          {
            class: "ghost",
            "aria-label": `Reset prefix ${key.slice(0, 8)}`,
            click: () => this.#reset(key, tokens, holders),
          },
          "Reset",
        ),
      ),
    );
  }

  async #reset(key, tokens, holders) {
    const done = await confirmed({
      title: `Reset prefix ${key.slice(0, 8)}…?`,
      text: `All routers forget that ${plural(holders.length, "replica")} hold${holders.length === 1 ? "s" : ""} these ${count(tokens)} tokens and what follows them, until engines announce them again. The engines' caches are not touched.`,
      button: "Reset",
      go: () => change("POST", `prefixes/${part(key)}/reset`),
    });
    if (done) await this.load();
  }
}
