// The replicas: cards while they are few, a table when they are many.

import { closeSheet, openSheet } from "./dialogs.js";
import { h, keyed, mark, one, put } from "./dom.js";
import { count, plural } from "./format.js";
import { replicaCard, stateOf } from "./replicacard.js";
import { ReplicaTable } from "./replicatable.js";

const MOST_CARDS = 24;

export class ReplicaPanel {
  #cards = new Map();
  #items = [];
  #replicas = [];
  #open = null;

  constructor() {
    this.filter = h("input", {
      type: "search",
      placeholder: "Filter by id, model or state",
      "aria-label": "Filter replicas",
      input: () => this.#draw(),
    });
    this.shown = h("span", { class: "small muted" });
    this.cards = h("div", { class: "cards" });
    this.table = new ReplicaTable((id) => this.#details(id));
    this.empty = h("p", { class: "card empty" });
    this.sync = keyed(
      this.cards,
      ({ replica }) => replica,
      (replica) => {
        const card = replicaCard(replica);
        this.#cards.set(replica.replica, card);
        card.draw(this.#trend(replica.replica));
        return card;
      },
    );
    one("#replica-tools").append(this.filter, this.shown);
    one("#replica-view").append(this.cards, this.table.element, this.empty);
  }

  overview({ replicas }) {
    this.#replicas = replicas;
    put(one("#replicas-line"), summary(replicas));
    this.#draw();
    const open = replicas.find(({ replica }) => replica === this.#open?.id);
    if (open) this.#open.card.update(open);
  }

  show(items) {
    this.#items = items;
    for (const [id, card] of this.#cards) card.draw(this.#trend(id));
    this.#open?.card.draw(this.#trend(this.#open.id));
  }

  /** A replica's delivered hit rates. */
  #trend(id) {
    return this.#items.map(({ replicas }) => {
      const [, prompt, delivered] = replicas.get(id) ?? [0, 0, 0];
      return prompt ? delivered / prompt : null;
    });
  }

  #draw() {
    const dense = this.#replicas.length > MOST_CARDS;
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.#replicas.filter((replica) => {
      const text = `${replica.replica} ${replica.model} ${replica.url} ${stateOf(replica)}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    mark(one("#replica-tools"), "hidden", this.#replicas.length > 6 ? null : "");
    put(this.shown, words.length ? `${count(found.length)} of ${count(this.#replicas.length)}` : "");
    this.cards.hidden = dense || !found.length;
    this.table.element.hidden = !dense || !found.length;
    this.empty.hidden = found.length > 0;
    put(
      this.empty,
      words.length
        ? "No replica matches."
        : "No replicas yet. Start engines with “warmroute serve”, or “warmroute agent” beside engines that run already.",
    );
    if (dense) this.table.show(found);
    const inCards = dense ? [] : found;
    this.sync(inCards);
    const ids = new Set(inCards.map(({ replica }) => replica));
    for (const id of this.#cards.keys()) if (!ids.has(id)) this.#cards.delete(id);
  }

  /** A row of the table, as a card in the sheet. */
  #details(id) {
    const replica = this.#replicas.find((one) => one.replica === id);
    if (!replica) return closeSheet();
    const card = replicaCard(replica);
    card.update(replica);
    card.draw(this.#trend(id));
    this.#open = { id, card };
    return openSheet(`Replica ${id}`, [card.element], () => {
      this.#open = null;
    });
  }
}

function summary(replicas) {
  const states = new Map();
  for (const replica of replicas) states.set(stateOf(replica), (states.get(stateOf(replica)) ?? 0) + 1);
  return [
    plural(replicas.length, "replica"),
    ...[...states].filter(([state]) => state !== "ready").map(([state, number]) => `${number} ${state}`),
  ].join(" · ");
}
