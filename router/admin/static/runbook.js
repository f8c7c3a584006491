// What to do about each kind of alarm. docs/monitoring.md says the same, word for word: a test compares them.

import { h } from "./dom.js";

/** By kind: [name, what it means and what to do]. */
const RUNBOOK = {
  lost: ["Replica died", "Neither its agent nor its engine answers, and nobody said good-bye. Look at its host and at the engine's last log lines. Its requests go to the others; what it held is computed again. The alarm ends when it comes back, or after ten minutes."],
  unreachable: ["Unreachable", "This router cannot reach a replica whose lease is good. If other routers can, look at the network between them; if not, the engine hangs: restart it. It gets no requests meanwhile."],
  redis: ["Redis away", "Redis does not answer. Routers go on with what they know, and agents publish everything again if Redis lost its data. Bring Redis back; no restart is needed."],
  redis_refuses: ["Redis refuses writes", "Redis answers but refuses writes, and says why (OOM, READONLY, MISCONF, NOPERM). Give it memory, let it write, or point to the primary. Nothing needs a restart once it takes writes again."],
  redis_rights: ["Redis rights", "The router's Redis user lacks rights, named as its ACL would have them. infra/redis/users.acl has all."],
  redis_slow: ["Redis slow", "Redis takes over 250 ms to answer: events and other routers' load come late. Look at its CPU, at slow commands and at the network."],
  lease: ["Lease not renewed", "The lease of a replica was not renewed, but its engine answers: its agent is dead, or cannot write to Redis. It serves on; what is known of its blocks grows old. Restart the agent."],
  log: ["Log lines lost", "Log lines are lost: the disk is full, or nobody reads standard error."],
  tokenizer: ["Tokenizer differs", "The router's tokens differ from the engine's, or cannot be had: that model is routed by texts. It says where the two part. If the engine was started with a template or options of its own, say so in WARMROUTE_CHAT_OPTIONS."],
  shape: ["Kind of request differs", "The engine counts other prompt tokens than the router for one kind of request: it, or those conversations, are routed by texts. It says where the two part, or that it is an option of the engine: then set WARMROUTE_CHAT_OPTIONS."],
  replica: ["Replica's alarm", "An agent has raised an alarm, such as lost events, an engine that does not answer, or a Redis that loses what is published because it evicts keys. Look at the log of that agent and its engine."],
  namespace: ["Replicas differ", "A replica serves a model differently than the others: other block size, or other tokenizer. Start it with the same options."],
  index: ["Index full", "The index is full, and new blocks are not taken in: raise WARMROUTE_MAX_BLOCKS."],
  steering: ["Steering unreadable", "Operators' decisions in Redis cannot be read. Take them again: policy, experiment, drains."],
};

export const NAMES = Object.fromEntries(Object.entries(RUNBOOK).map(([kind, [name]]) => [kind, name]));

/** One section, as elements of the sheet. */
export function runbookSection(kind) {
  const [name, text] = RUNBOOK[kind] ?? [kind, "There is no section about this kind of alarm."];
  return [
    h("section", {}, h("h3", {}, name), h("p", {}, text)),
    h("p", { class: "small muted" }, `Also in docs/monitoring.md, under “${name}”.`),
  ];
}
