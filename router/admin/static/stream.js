// Follows the router's server-sent events for as long as the page is open and visible.
//
// EventSource cannot send the token, so the stream is read with fetch.

import { ask } from "./api.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const SILENT_MS = 25_000; // the router sends a comment every 10 s
const HIDDEN_MS = 30_000;

/** Cuts a text stream into events: {event, data}. Comments and unfinished events give nothing. */
class EventParser {
  #rest = "";

  *feed(text) {
    const lines = (this.#rest + text).split(/\r?\n\r?\n/);
    this.#rest = lines.pop();
    for (const block of lines) {
      let event = "message";
      const data = [];
      for (const line of block.split(/\r?\n/)) {
        if (line.startsWith("event:")) event = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      }
      if (data.length) yield { event, data: data.join("\n") };
    }
  }
}

/**
 * Read the stream until stopped. `on.event(name, value)` gets each event; `on.open()` each new connection;
 * `on.lost(problem, seconds)` each failure, with the time until the next attempt.
 */
export class Stream {
  #on;
  #wait = FIRST_WAIT_MS;
  #abort = null;
  #timer = 0;
  #hidden = 0;
  #paused = false;

  constructor(on) {
    this.#on = on;
    document.addEventListener("visibilitychange", () => this.#visibility());
  }

  /** Connect now, whatever was planned. */
  start() {
    this.stop();
    this.#wait = FIRST_WAIT_MS;
    this.#run();
  }

  /** Close, and try no more. */
  stop() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
  }

  async #run() {
    const abort = new AbortController();
    this.#abort = abort;
    let silence = 0;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(new Error("the router has fallen silent")), SILENT_MS);
    };
    let problem;
    try {
      heard();
      const response = await ask("stream", { signal: abort.signal });
      this.#wait = FIRST_WAIT_MS;
      await this.#on.open();
      await this.#read(response, heard);
      problem = new Error("the router closed the connection");
    } catch (error) {
      problem = error;
    }
    clearTimeout(silence);
    if (this.#abort !== abort) return; // stopped, or started anew
    const wait = this.#wait * (0.75 + Math.random() / 2);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
    if (this.#on.lost(problem, wait / 1000) !== false) this.#timer = setTimeout(() => this.#run(), wait);
  }

  async #read(response, heard) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new EventParser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      for (const { event, data } of parser.feed(value)) this.#on.event(event, data);
    }
  }

  /** A page that nobody looks at costs the router nothing. */
  #visibility() {
    clearTimeout(this.#hidden);
    if (document.hidden) {
      this.#hidden = setTimeout(() => {
        if (!this.#abort) return;
        this.stop();
        this.#paused = true;
      }, HIDDEN_MS);
    } else if (this.#paused) {
      this.#paused = false;
      this.start();
    }
  }
}
