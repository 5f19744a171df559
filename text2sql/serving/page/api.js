// The server, as the page needs it: requests with the key, answers as they grow, errors in words that say what to do.

import {key} from "./store.js";

/** What went wrong: `words` for the user, and `param`, the field at fault. */
export class Problem extends Error {
  constructor({title, words, status = 0, code = "", param = null, wait = 0, id = ""}) {
    super(words);
    Object.assign(this, {title, words, status, code, param, wait, id});
  }
}

const TITLES = {
  rate_limited: "That was a lot of questions",
  queue_full: "The server is busy",
  guard_busy: "The server is busy",
  database_unavailable: "The database does not answer",
  schema_unusable: "The schema cannot be used",
};
const WORDS = {
  400: ["The server did not take this", (said) => said],
  401: ["A key is needed", () => "Give an API key of this server."],
  404: ["Not found", (said) => said],
  408: ["The request took too long to arrive", () => "Check the connection and ask again."],
  413: ["That is too long", (said) => `${sentence(said)} Leave out tables that the question does not need.`],
  415: ["The server cannot read this file", (said) => said],
  422: ["Something is missing or cannot be used", (said) => said],
  429: ["The server is busy", (said) => said],
  503: ["The model is not ready", (said) => said],
  504: ["No answer came in time", () => "Ask for fewer candidates or a simpler question, or try again later."],
};

function sentence(text) {
  const full = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(full) ? full : `${full}.`;
}

async function problemOf(response) {
  const error = (await response.json().catch(() => null))?.error ?? {};
  return problemSaid(error, response.status, response.headers);
}

function problemSaid(error, status, headers) {
  const {code = "", message = "", param = null} = error;
  const [title, say] = WORDS[status] ?? ["The server failed", () => "Its log says why; the request ID helps to find it."];
  const field = param ? message.replace(new RegExp(`^${param}: `), "") : message;
  const wait = Number(headers?.get("Retry-After")) || 0;
  return new Problem({
    title: TITLES[code] ?? title, words: sentence(say(field || "no reason was given")),
    status, code, param, wait, id: headers?.get("X-Request-ID") ?? "",
  });
}

/** A request with the key; raises Problem for every answer that is none, and AbortError. */
async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  try {
    if (key.get()) headers.set("Authorization", `Bearer ${key.get()}`);
  } catch { // of characters that no header holds, so it is nobody's
    throw new Problem({title: WORDS[401][0], words: WORDS[401][1](), status: 401, code: "invalid_api_key"});
  }
  let response;
  try {
    response = await fetch(path, {...options, headers, cache: "no-store"});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({title: "The server cannot be reached", words: "Check that it runs and that you are connected, then try again."});
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** {ready, words, model, database, keys} */
export async function status() {
  try {
    const response = await fetch("readyz", {cache: "no-store"});
    if (response.ok) return {ready: true, words: "", ...(await response.json())};
    const why = (await response.json()).error?.message ?? "not ready";
    return {ready: false, words: why};
  } catch {
    return {ready: false, words: "The server cannot be reached"};
  }
}

/** CREATE TABLE text of the server's database. */
export const databaseSchema = async () => (await (await send("schema")).json()).schema_text;

/** The schema in a file. */
export async function schemaOf(file) {
  const name = encodeURIComponent(file.name.slice(0, 200));
  const headers = {"Content-Type": "application/octet-stream"};
  return (await send(`schema?name=${name}`, {method: "POST", body: file, headers})).json();
}

/** The answer; `told` gets more of its text as it grows. */
export async function ask(question, told, signal) {
  const response = await send("generate", {
    method: "POST", body: JSON.stringify({...question, stream: true}), signal,
    headers: {"Content-Type": "application/json"},
  });
  for await (const {event, data} of events(response.body)) {
    if (event === "token") told(JSON.parse(data).text);
    if (event === "answer") return JSON.parse(data);
    if (event === "error") throw streamProblem(JSON.parse(data).error, response.headers);
  }
  throw new Problem({title: "The answer broke off", words: "The connection ended in the middle of it. Ask again."});
}

const STATUS_OF = {
  timeout_error: 504, rate_limit_error: 429, service_unavailable_error: 503, invalid_request_error: 400,
  authentication_error: 401, not_found_error: 404,
};

/** An error event has no status of its own. */
function streamProblem(error, headers) {
  return problemSaid(error, STATUS_OF[error?.type] ?? 500, new Headers({"X-Request-ID": headers.get("X-Request-ID") ?? ""}));
}

/** Server-sent events of a body: {event, data}; comments and half an event at the end are left out. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const found = {event: "message", data: []};
      for (const line of block.split(/\r?\n/)) {
        const [, field, text] = /^([a-z]+): ?(.*)$/s.exec(line) ?? [];
        if (field === "event") found.event = text;
        if (field === "data") found.data.push(text);
      }
      if (found.data.length) yield {event: found.event, data: found.data.join("\n")};
    }
  }
}
