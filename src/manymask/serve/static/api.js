// What the page asks of the server: JSON, packed bytes, and a stream of events.

export class ApiError extends Error {
  constructor(status, message, answer = {}) {
    super(message);
    this.answer = answer;
    this.status = status; // 0: the server did not answer
  }
}

async function ask(method, path, { body, headers } = {}) {
  let response;
  try {
    response = await fetch(path, { method, body, headers, credentials: "same-origin" });
  } catch {
    throw new ApiError(0, "The server does not answer.");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new ApiError(response.status, typeof answer.detail === "string" ? answer.detail : `The server answered ${response.status}.`, answer);
}

export const getJson = async (path) => (await ask("GET", path)).json();
export const getBytes = async (path) => (await ask("GET", path)).arrayBuffer();
export const remove = (path) => ask("DELETE", path);

export async function post(path, value = {}, headers = {}) {
  const isForm = value instanceof FormData;
  const body = isForm ? value : JSON.stringify(value);
  const response = await ask("POST", path, { body, headers: isForm ? headers : { "Content-Type": "application/json", ...headers } });
  return response.headers.get("Content-Type")?.startsWith("application/json") ? response.json() : null;
}

const PAUSE = 5000; // milliseconds before a stream that was refused is asked for again

/** Follows the server's events; `onState` gets whether it answers, and why it lets us in no more, if so. */
export function follow(onEvent, onState) {
  const source = new EventSource("/api/events");
  source.onopen = () => onState(true);
  source.onmessage = (message) => onEvent(JSON.parse(message.data));
  source.onerror = async () => {
    onState(false);
    if (source.readyState !== EventSource.CLOSED) return; // the browser connects again by itself
    const error = await getJson("/api/session").then(() => null, (error) => error);
    if (error?.status === 401) onState(false, error.message);
    else setTimeout(() => follow(onEvent, onState), PAUSE);
  };
}
