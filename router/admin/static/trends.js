// What became of requests over time, as the router's trends have it: what all charts draw.

import { get, part } from "./api.js";
import { REASONS } from "./reasons.js";
import { chosen, LABELS } from "./state.js";

/** Ranges in seconds, with the width of what is drawn as one point. */
export const RANGES = [
  ["5 min", 300, 10],
  ["15 min", 900, 10],
  ["1 h", 3600, 30],
  ["6 h", 21_600, 300],
  ["24 h", 86_400, 300],
  ["7 d", 604_800, 3600],
];
const [PROMPT, AVAILABLE, PREDICTED, DELIVERED, OUTPUT] = [1, 2, 3, 4, 5];
const FIRST_MISS = 10;
const FIRST_BIN = 1000;
const range = () => RANGES.find(([, seconds]) => String(seconds) === chosen("range")) ?? RANGES[2];

const wanted = () => {
  const filters = LABELS.filter((name) => chosen(name)).map((name) => `&${name}=${part(chosen(name))}`);
  return `trends?seconds=${range()[1]}${filters.join("")}`;
};

export class Trends {
  #steps = new Map();
  #query = "";
  #scale = null;
  end = 0;
  /** The models, tenants, replicas and arms that there were. */
  labels = [[], [], [], []];

  /** Ask for what is new; for everything when the operator has chosen something else. */
  async load() {
    const query = wanted();
    const fresh = query !== this.#query;
    const last = Math.max(0, ...this.#steps.keys());
    const answer = await get(fresh || !last ? query : `${query}&after=${last}`);
    if (query !== wanted()) return; // meanwhile the operator has chosen something else
    if (fresh) {
      this.#query = query;
      this.#steps.clear();
      this.labels = [[], [], [], []];
    }
    this.add(answer);
  }

  /** Take over an answer. */
  add({ end, step_seconds: step, first_seconds: first, ratio, labels, steps }) {
    this.end = end;
    this.step = step;
    this.#scale = (place) => first * ratio ** place;
    this.labels = this.labels.map((known, at) => [...new Set([...known, ...labels[at]])].sort());
    for (const one of steps) this.#steps.set(one.time, one);
    const oldest = end - range()[1];
    for (const time of this.#steps.keys()) if (time < oldest) this.#steps.delete(time);
  }

  /** One item for each point of the chosen range, the oldest first, also where there were no requests. */
  items() {
    const [, seconds, wanted] = range();
    if (!this.end) return [];
    const width = Math.max(wanted, this.step);
    const begin = Math.ceil((this.end - seconds) / width) * width; // whole points only
    const length = Math.floor((this.end - begin) / width);
    const groups = Array.from({ length }, (_, at) => ({
      time: begin + at * width,
      width,
      sums: {},
      replicas: new Map(),
    }));
    for (const { time, sums, replicas } of this.#steps.values()) {
      const group = groups[Math.floor((time - begin) / width)];
      if (!group) continue;
      for (const name in sums) group.sums[name] = (group.sums[name] ?? 0) + sums[name];
      for (const id in replicas) {
        const all = group.replicas.get(id);
        if (all) replicas[id].forEach((value, at) => (all[at] += value));
        else group.replicas.set(id, [...replicas[id]]);
      }
    }
    return groups.map((group) => ({ ...group, ...figures(group, this.#scale) }));
  }
}

/** What a group amounts to: rates per second, percentiles, shares; null where nothing was counted. */
function figures({ sums, width }, scale) {
  const statuses = Object.entries(sums).filter(([name]) => name >= 100 && name < 600);
  const count = (test) => statuses.reduce((all, [name, value]) => all + (test(Number(name)) ? value : 0), 0);
  const prompt = sums[PROMPT];
  const share = (name) => (prompt ? (sums[name] ?? 0) / prompt : null);
  const requests = count(() => true);
  const failed = count((status) => status >= 500);
  const refused = count((status) => status >= 400 && status < 499);
  return {
    requests,
    failed,
    refused,
    outcomes: {
      ok: count((status) => status < 400) / width,
      cancelled: count((status) => status === 499) / width,
      refused: refused / width,
      failed: failed / width,
    },
    errors: Object.fromEntries(statuses.filter(([name]) => name >= 400 && name !== "499")),
    ...percentiles(sums, scale),
    output: (sums[OUTPUT] ?? 0) / width,
    prompts: { cached: (sums[DELIVERED] ?? 0) / width, computed: ((prompt ?? 0) - (sums[DELIVERED] ?? 0)) / width },
    available: share(AVAILABLE),
    predicted: share(PREDICTED),
    delivered: share(DELIVERED),
    misses: Object.fromEntries(REASONS.map(([name], at) => [name, sums[FIRST_MISS + at] ?? 0])),
  };
}

function percentiles(sums, scale) {
  const bins = Object.entries(sums).filter(([name]) => name >= FIRST_BIN); // in order: such keys are
  const streams = bins.reduce((all, [, value]) => all + value, 0);
  const at = (part) => {
    let below = 0;
    for (const [name, value] of bins) if ((below += value) >= streams * part) return scale(name - FIRST_BIN);
    return null;
  };
  return { streams, p50: at(0.5), p95: at(0.95), p99: at(0.99) };
}
