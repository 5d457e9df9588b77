// Calls to the daemon. A refusal becomes an ApiError with the sentence for a person; no answer at all becomes one with status 0.

const LIMIT_MS = 40_000;
const FINAL = ["succeeded", "failed", "timed_out", "cancelled", "skipped", "missed"];

export class ApiError extends Error {
  constructor(message, status, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

function sentence(text) {
  if (!text) return null;
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

async function call(method, path, body, headers = {}, limitMs = LIMIT_MS) {
  const options = { method, headers: { Accept: "application/json", ...headers }, credentials: "same-origin", cache: "no-store", signal: AbortSignal.timeout(limitMs) };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ApiError("EchoPilot does not answer.", 0, null);
  }
  const answer = await response.json().catch(() => null);
  if (response.status === 401) {
    location.assign("/");
    throw new ApiError("The session has ended. Sign in again.", 401, answer);
  }
  if (!response.ok) {
    throw new ApiError(sentence(answer?.detail ?? answer?.title) ?? `EchoPilot answered with status ${response.status}.`, response.status, answer);
  }
  return answer;
}

export const get = (path) => call("GET", path);
export const post = (path, body, headers, limitMs) => call("POST", path, body, headers, limitMs);

/** Whether the daemon is ready: "ready", "not ready" or "no answer". */
export async function readiness() {
  try {
    const response = await fetch("/readyz", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    return response.ok ? "ready" : "not ready";
  } catch {
    return "no answer";
  }
}

/** A key under which a repetition of the same request is answered again instead of done again. */
export function idempotencyKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Asks after a run until it has ended; answers its last record. `tell` gets what it looks like meanwhile. */
export async function follow(runId, limitMs = 120_000, tell = () => {}) {
  const until = Date.now() + limitMs;
  for (let wait = 150; ; wait = Math.min(wait * 1.5, 2000)) {
    const run = await get(`/api/runs/${encodeURIComponent(runId)}`);
    if (FINAL.includes(run.state)) return run;
    tell(run);
    if (Date.now() > until) throw new ApiError("The run goes on; its result will appear in the list of tasks.", 0, run);
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}
