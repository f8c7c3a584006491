// Asks the router's admin API, with the operator's token where one is needed.

const TOKEN = "warmroute.token";
const BASE = new URL("../", import.meta.url); // …/admin/, also behind a proxy that adds a path
const WAIT_MS = 15_000;

/** An answer that is not what was asked for. `status` is 0 when there was no answer. */
class ApiProblem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

/** Send a request; resolves with a response that is OK, else throws `ApiProblem`. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  let response;
  try {
    response = await fetch(new URL(path, BASE), { cache: "no-store", ...options, headers });
  } catch (error) {
    throw new ApiProblem(0, `The router does not answer (${error.message}).`);
  }
  if (!response.ok) throw new ApiProblem(response.status, await reason(response));
  return response;
}

async function reason(response) {
  const fallback = `The router answered ${response.status} ${response.statusText}`.trim() + ".";
  try {
    return (await response.json()).error?.message ?? fallback;
  } catch {
    return fallback;
  }
}

/** GET a path below /admin/ as JSON. */
export async function get(path) {
  return (await ask(path, { signal: AbortSignal.timeout(WAIT_MS) })).json();
}

/** Change something: PUT, POST or DELETE. */
export async function change(method, path, body) {
  const options = { method, signal: AbortSignal.timeout(WAIT_MS) };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  return (await ask(path, options)).json();
}

/** A path's part that may hold any character. */
export const part = encodeURIComponent;
