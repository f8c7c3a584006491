// The last hour in steps of ten seconds, and sums over it: what the charts draw.

const FIELDS = ["requests", "prompt_tokens", "available_tokens", "predicted_tokens", "delivered_tokens"];
const KEPT_SECONDS = 3600;

/** A bucket: {time, replicas: {id: [five numbers, as FIELDS]}, misses: {reason: tokens}}. */
export class History {
  step = 10;
  #buckets = [];

  /** Take over an answer of GET /admin/history. */
  load({ step_seconds, times, replicas, misses }) {
    this.step = step_seconds;
    this.#buckets = times.map((time, at) => {
      const bucket = { time, replicas: {}, misses: {} };
      for (const reason of Object.keys(misses)) bucket.misses[reason] = misses[reason][at];
      return bucket;
    });
    for (const [id, columns] of Object.entries(replicas)) {
      this.#buckets.forEach((bucket, at) => {
        if (columns.requests[at]) bucket.replicas[id] = FIELDS.map((field) => columns[field][at]);
      });
    }
  }

  /** Take a bucket that is complete now; a repeated one replaces what was there. */
  add(bucket) {
    this.#buckets = this.#buckets.filter(({ time }) => time !== bucket.time);
    this.#buckets.push(bucket);
    this.#buckets.sort((one, other) => one.time - other.time);
    const oldest = bucket.time - KEPT_SECONDS;
    this.#buckets = this.#buckets.filter(({ time }) => time > oldest);
  }

  /** Seconds since the first request that is known. */
  get age() {
    const first = this.#buckets.find(({ replicas }) => Object.keys(replicas).length);
    return first ? this.end - first.time : 0;
  }

  /** The end of the newest bucket. */
  get end() {
    return this.#buckets.length ? this.#buckets.at(-1).time + this.step : 0;
  }

  /**
   * Groups of buckets of `width` seconds that cover the last `span` seconds, oldest first, empty ones included:
   * [{time, fleet: [five numbers], replicas: Map(id -> five numbers), misses: {reason: tokens}}].
   */
  groups(span, width) {
    const last = Math.ceil(this.end / width) * width;
    const groups = [];
    for (let time = last - span; time < last; time += width) {
      groups.push({ time, width, fleet: [0, 0, 0, 0, 0], replicas: new Map(), misses: {} });
    }
    for (const bucket of this.#buckets) {
      const group = groups[Math.floor((bucket.time - (last - span)) / width)];
      if (!group) continue;
      for (const [id, numbers] of Object.entries(bucket.replicas)) {
        const sums = group.replicas.get(id) ?? [0, 0, 0, 0, 0];
        numbers.forEach((value, at) => {
          sums[at] += value;
          group.fleet[at] += value;
        });
        group.replicas.set(id, sums);
      }
      for (const [reason, tokens] of Object.entries(bucket.misses)) {
        group.misses[reason] = (group.misses[reason] ?? 0) + tokens;
      }
    }
    return groups;
  }
}

/** The three rates of five numbers; null where no tokens were counted. */
export const rates = ([, prompt, available, predicted, delivered]) => ({
  available: prompt ? available / prompt : null,
  predicted: prompt ? predicted / prompt : null,
  delivered: prompt ? delivered / prompt : null,
});
