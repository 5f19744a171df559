// The page: what is asked, what is shown, what is remembered.

import * as api from "./api.js";
import {growing, showAnswer} from "./answer.js";
import {find, make} from "./dom.js";
import {draft, history, key} from "./store.js";

const POLL_MS = 3000, DRAFT_MS = 400;
const SHORTCUT = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘ ↵" : "Ctrl ↵";
const EXAMPLE = {
  schema: `CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, country TEXT, age INTEGER);
CREATE TABLE concert (id INTEGER PRIMARY KEY, singer_id INTEGER, year INTEGER, visitors INTEGER,
  FOREIGN KEY (singer_id) REFERENCES singer (id));`,
  question: "How many singers are older than 30?",
};

const schema = find("schema"), question = find("question");
let asking = null; // the AbortController of the answer under way
let offered = ""; // the schema of the server's database
let before = null; // what a file took the place of
let afterKey = null; // what goes on once there is a key

// Asking

async function ask() {
  if (asking) { asking.abort(); return; }
  note("question", ""); note("schema", "");
  if (!question.value.trim()) { fault("question", "Write a question first."); return; }
  if (!schema.value.trim() && !offered) { fault("schema", "Give the tables that the question is about, as CREATE TABLE statements or a file."); return; }
  const asked = {question: question.value, schema_text: schema.value, n: Number(find("candidates").value),
    dialect: find("dialect").value, execute: !find("execute-label").hidden && find("execute").checked};
  const controller = busy(new AbortController());
  hideProblem();
  find("empty").hidden = true;
  const told = growing();
  say("Asking");
  try {
    const answer = await api.ask(asked, told, controller.signal);
    showAnswer(answer, asked);
    say(answer.valid ? `Answer: ${answer.sql}` : `The answer did not pass the checks: ${answer.reasons.map((r) => r.message).join("; ")}`);
    history.add({question: asked.question, schema: asked.schema_text, dialect: answer.dialect, asked_dialect: asked.dialect,
      sql: answer.sql, valid: answer.valid, reasons: answer.reasons, at: Date.now()});
    showHistory();
  } catch (error) {
    find("answer").hidden = true;
    if (error.name === "AbortError") { say("Stopped"); find("empty").hidden = false; }
    else failed(error, ask);
  } finally {
    busy(null);
  }
}

function busy(controller) {
  asking = controller;
  find("submit").classList.toggle("stop", Boolean(controller));
  find("submit-words").textContent = controller ? "Stop" : "Ask";
  find("submit").querySelector("kbd").textContent = controller ? "Esc" : SHORTCUT;
  return controller;
}

// Errors

let countdown = 0;

/** Tell of an error, and offer what helps: a key, a field to correct, another try. */
function failed(error, again) {
  if (!(error instanceof api.Problem)) {
    console.error(error);
    error = new api.Problem({title: "The page failed", words: "Load it again; if that does not help, tell who runs this server."});
  }
  if (error.status === 503) connect(); // tells at the top how it goes on
  if (error.status === 401) { find("empty").hidden = false; askForKey(error.code === "invalid_api_key", again); return; }
  if (error.param === "schema_text" || error.param === "question") {
    fault(error.param === "question" ? "question" : "schema", error.words);
    find("empty").hidden = false;
    return;
  }
  const card = find("problem");
  const retry = make("button", {type: "button", class: "primary", text: "Try again", onclick: () => { hideProblem(); again(); }});
  const wait = make("span", {class: "muted"});
  card.replaceChildren(make("h2", {text: error.title}), make("p", {text: error.words}),
    make("div", {class: "row"}, retry, wait),
    error.id ? make("small", {class: "muted", text: `Request ${error.id}`}) : "");
  card.hidden = false;
  waiting(error.wait, retry, wait);
}

/** Count the seconds down that the server asked to wait. */
function waiting(seconds, retry, words) {
  clearInterval(countdown);
  const until = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    words.textContent = left > 0 ? `in ${left < 90 ? `${left} s` : `${Math.ceil(left / 60)} min`}` : "";
    retry.disabled = left > 0;
    if (left <= 0) clearInterval(countdown);
  };
  tick();
  if (seconds > 0) countdown = setInterval(tick, 250);
}

function hideProblem() {
  clearInterval(countdown);
  find("problem").hidden = true;
  find("problem").replaceChildren();
}

function note(field, words) {
  find(`${field}-note`).textContent = words;
  find(`${field}-note`).classList.remove("no");
  find(field).removeAttribute("aria-invalid");
}

function fault(field, words) {
  note(field, words);
  find(`${field}-note`).classList.add("no");
  find(field).setAttribute("aria-invalid", "true");
  find(field).focus();
}

const say = (words) => { find("live").textContent = words; };

// The key

function askForKey(wrong, again) {
  afterKey = again;
  find("key-words").textContent = wrong
    ? "The server does not know this key. Check that all of it was pasted, or ask for another one."
    : "This server answers to those who have a key. It is kept until this tab is closed, and sent nowhere else.";
  find("key-words").classList.toggle("no", wrong);
  find("key").value = "";
  find("key-forget").hidden = !key.get();
  find("key-button").hidden = false;
  if (!find("key-dialog").open) find("key-dialog").showModal();
}

function keyGiven() {
  key.set(find("key").value.trim());
  const again = afterKey ?? connect;
  afterKey = null;
  again();
  if (again !== connect) connect();
}

// Schema

function schemaChanged() {
  const tables = (schema.value.match(/\bcreate\s+(?:temp(?:orary)?\s+)?(?:table|view)\b/gi) ?? []).length;
  find("schema-count").textContent = tables ? `${tables} table${tables === 1 ? "" : "s"} · ${schema.value.length.toLocaleString("en")} characters` : "";
  find("from-database").hidden = !offered || schema.value === offered;
  keepDraft();
}

function setSchema(text, words, undo = true) {
  before = undo && schema.value.trim() && schema.value !== text ? schema.value : null;
  schema.value = text;
  schema.scrollTop = 0;
  note("schema", words);
  find("undo").hidden = before === null;
  schemaChanged();
}

async function take(files) {
  if (!files.length) return;
  note("schema", `Reading ${files.length === 1 ? files[0].name : `${files.length} files`}…`);
  try {
    const found = [];
    for (const file of files) found.push(await api.schemaOf(file));
    const tables = found.flatMap((one) => one.tables), names = tables.slice(0, 4).map((table) => table.name).join(", ");
    const text = found.map((one) => one.schema_text).join("\n");
    if (!tables.length) { fault("schema", `${files[0].name} holds no tables.`); return; }
    setSchema(text, `Read ${tables.length} table${tables.length === 1 ? "" : "s"} from ${files.length === 1 ? files[0].name : `${files.length} files`}: ${names}${tables.length > 4 ? ", …" : ""}`);
  } catch (error) {
    if (error.status === 401) { note("schema", ""); failed(error, () => take(files)); }
    else fault("schema", `${files.length === 1 ? `${files[0].name}: ` : ""}${error.words ?? error.message}${error.wait ? ` Try again in ${error.wait} s.` : ""}`);
  }
}

// History and draft

function showHistory() {
  const entries = history.all();
  find("history").replaceChildren(...entries.map((entry) => make("li", {},
    make("button", {type: "button", class: entry.valid ? "yes" : "no", onclick: () => recall(entry)},
      make("span", {class: "asked", text: entry.question}),
      make("code", {text: entry.sql || "no query"}),
      entry.valid ? "" : make("span", {class: "sr", text: "(did not pass the checks)"})))));
  find("history-empty").textContent = entries.length ? "" : history.kept
    ? "Questions and their queries will be listed here. They stay in this browser."
    : "Questions are listed here until the page is left.";
  find("clear").hidden = !entries.length;
  find("keep").checked = history.kept;
}

function recall(entry) {
  if (asking) return;
  question.value = entry.question;
  if (entry.schema !== null) setSchema(entry.schema, "");
  find("dialect").value = entry.asked_dialect ?? "sqlite";
  hideProblem();
  find("empty").hidden = true;
  showAnswer({...entry, candidates: []}, {question: entry.question, dialect: entry.asked_dialect, execute: false}, true);
  find("answer").focus();
}

let drafting = 0;

function keepDraft() {
  clearTimeout(drafting);
  drafting = setTimeout(saveDraft, DRAFT_MS);
}

function saveDraft() {
  clearTimeout(drafting);
  draft.set({schema: schema.value.slice(0, 200_000), question: question.value, dialect: find("dialect").value});
}

// The server

let polling = 0;

async function connect() {
  clearTimeout(polling);
  const {ready, words, model, database, keys} = await api.status();
  find("server").className = `server ${ready ? "ready" : "waiting"}`;
  find("model").textContent = ready ? model : `${words.charAt(0).toUpperCase()}${words.slice(1)}…`;
  if (!ready) { polling = setTimeout(connect, POLL_MS); return; }
  find("key-button").hidden = !keys;
  if (!database || (keys && !key.get())) { offer(database, ""); return; } // a key is asked for when it is needed
  try {
    offer(true, await api.databaseSchema());
    if (offered && !schema.value.trim()) setSchema(offered, "These are the tables of the server’s database.", false);
  } catch {
    offer(true, ""); // the question will meet the same, and say it
  }
}

/** What the server's database gives: a place to run answers, and its tables. */
function offer(running, tables) {
  offered = tables;
  find("execute-label").hidden = !running;
  schemaChanged();
}

// Wiring

function dropping() {
  const card = find("schema-card"), holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  for (const name of ["dragenter", "dragover"]) document.addEventListener(name, (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault(); // or the browser would open the file in place of the page
    card.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) card.classList.remove("dropping"); });
  document.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    card.classList.remove("dropping");
    take([...event.dataTransfer.files]);
  });
}

function wire() {
  const on = (id, event, work) => find(id).addEventListener(event, work);
  on("ask", "submit", (event) => { event.preventDefault(); ask(); });
  document.addEventListener("keydown", (event) => {
    if (find("key-dialog").open) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); if (!asking) ask(); }
    if (event.key === "Escape" && asking) asking.abort();
  });
  on("schema", "input", () => { note("schema", ""); find("undo").hidden = true; schemaChanged(); });
  on("question", "input", () => { note("question", ""); keepDraft(); });
  on("dialect", "change", keepDraft);
  on("choose", "click", () => find("file").click());
  on("file", "change", () => { take([...find("file").files]); find("file").value = ""; });
  on("undo", "click", () => { setSchema(before ?? "", "", false); schema.focus(); });
  on("from-database", "click", () => setSchema(offered, "These are the tables of the server’s database."));
  on("example", "click", () => { setSchema(EXAMPLE.schema, ""); question.value = EXAMPLE.question; question.focus(); keepDraft(); });
  on("keep", "change", () => { history.keep(find("keep").checked); keepDraft(); showHistory(); });
  on("clear", "click", () => { history.clear(); showHistory(); find("question").focus(); });
  on("key-button", "click", () => askForKey(false, connect));
  on("key-cancel", "click", () => { afterKey = null; find("key-dialog").close(); });
  on("key-forget", "click", () => { key.set(""); afterKey = null; find("key-dialog").close(); connect(); });
  on("key-form", "submit", (event) => { event.preventDefault(); if (find("key").value.trim()) { find("key-dialog").close(); keyGiven(); } });
  addEventListener("pagehide", saveDraft);
  addEventListener("storage", (event) => { if (history.changed(event.key)) showHistory(); });
  dropping();
}

wire();
busy(null);
const kept = draft.get();
schema.value = typeof kept.schema === "string" ? kept.schema : "";
question.value = typeof kept.question === "string" ? kept.question : "";
if (kept.dialect) find("dialect").value = kept.dialect;
schemaChanged();
showHistory();
connect();
if (matchMedia("(min-width: 60rem)").matches) question.focus();
