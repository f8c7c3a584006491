// What the operator has chosen to see. All of it stands in the address, so that it can be shared and kept.

const DEFAULTS = {
  range: "3600", // seconds that charts show
  model: "",
  tenant: "",
  replica: "",
  arm: "",
  outcome: "", // of the list of requests: "refused", "failed", …
  from: "", // the list shows requests from this second on …
  to: "", // … and up to this one
  find: "",
  tz: "local", // or "utc"
  paused: "",
};
const listeners = [];

/** One choice, as text. */
export const chosen = (name) => new URLSearchParams(location.search).get(name) ?? DEFAULTS[name];

/** Change some choices, and tell whoever wants to know. */
export function choose(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (String(value) === DEFAULTS[name]) query.delete(name);
    else query.set(name, value);
  }
  const text = query.toString();
  history.replaceState(null, "", location.pathname + (text ? `?${text}` : "") + location.hash);
  for (const listen of listeners) listen(changes);
}

/** Call `listen(changes)` after every change. */
export const onChoice = (listen) => listeners.push(listen);

export const LABELS = ["model", "tenant", "replica", "arm"];
