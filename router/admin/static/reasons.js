// The nine reasons why an engine computed prompt tokens, in words.

export const REASONS = [
  [
    "cold",
    "Never seen",
    "Nobody had sent these tokens before.",
    "Nothing to do: the first time always costs.",
  ],
  [
    "diverged",
    "Diverged",
    "The conversation came back with an earlier part changed.",
    "Keep what comes first the same: move dates, ids and random order to the end of the prompt.",
  ],
  [
    "re_rendered",
    "Re-rendered",
    "The model's own answer came back as other tokens than it had generated.",
    "Clients should send back what they got, thoughts too; or keep responses, with token-exact continuation.",
  ],
  [
    "evicted",
    "Evicted",
    "The cache held them and had to make room.",
    "Give the engines more KV memory, or add replicas.",
  ],
  [
    "replica_lost",
    "Replica lost",
    "The replica that held them is gone or was restarted.",
    "Drain before you restart, and look for crashes.",
  ],
  [
    "diverted",
    "Diverted for load",
    "Another replica held them, but was too busy or not to be had.",
    "A little is healthy. If it is much, add replicas.",
  ],
  [
    "other_namespace",
    "Other namespace",
    "Same text, but for another model, adapter or tenant salt.",
    "Share a salt where tenants trust each other, and use fewer adapters.",
  ],
  [
    "tail",
    "Tail block",
    "What follows the last full block is never cached.",
    "Nothing to do: at most one block per request.",
  ],
  [
    "unknown",
    "Unknown",
    "Believed to be cached, and it was not; or nothing is known of the prompt.",
    "If it is much, look at the replicas' last events and alarms.",
  ],
];

export const LABELS = Object.fromEntries(REASONS.map(([name, label]) => [name, label]));

const KINDS = {
  date: "a date changed",
  time: "a time changed",
  id: "an id changed",
  number: "a number changed",
  white_space: "only white space changed",
  case: "only upper and lower case changed",
  inserted: "something was inserted",
  removed: "something was left out",
  reordered: "parts were put in another order",
  edited: "the text was edited",
  role: "the role changed",
  trimmed_history: "the beginning of the history was cut off",
  tools: "the tool definitions changed",
  re_rendered: "what was generated is written in other tokens now",
};

/** A divergence as a sentence: "Message 3 (user) differs from token 1,024 on: a date changed." */
export function divergenceSentence({ token, message, role, kind }) {
  const place = message < 0 ? "The prompt" : `Message ${message + 1}${role ? ` (${role})` : ""}`;
  return `${place} differs from token ${token.toLocaleString("en")} on${KINDS[kind] ? `: ${KINDS[kind]}` : ""}.`;
}
