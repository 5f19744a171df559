// An answer as a card: verdict, query, checks, candidates, rows.

import {toCsv, download} from "./csv.js";
import {find, make, symbol} from "./dom.js";
import {show} from "./sql.js";

/** What the guard looks at, in its order, and the codes that say where an answer failed. */
export const CHECKS = [
  {words: "One SQL query", codes: ["not_sql", "not_one_statement"]},
  {words: "Only reads", codes: ["not_read_only", "not_allowed", "function_not_allowed"]},
  {words: "Names are in the schema", codes: ["schema_unusable", "unknown_table", "unknown_column", "ambiguous_column"]},
  {words: "SQLite can plan it", codes: ["unknown_function", "does_not_plan"]},
  {words: "Runs on the database", codes: ["does_not_run", "timed_out"], when: (asked, answer) => asked.execute || failed(answer, "timed_out")},
  {words: "Can be written in this dialect", codes: ["not_renderable"], when: (asked) => asked.dialect !== "sqlite"},
];
const FIRST_ROWS = 100;

const failed = (answer, code) => answer.reasons.some((reason) => reason.code === code);

/** Show that an answer grows; returns what takes its text. */
export function growing() {
  const code = make("code"), card = find("answer");
  card.replaceChildren(
    make("div", {class: "title"}, make("p", {class: "verdict muted"}, make("span", {class: "spinner"}), "Writing the query")),
    make("pre", {class: "sql growing", "aria-hidden": "true"}, code));
  card.className = "card answer";
  card.hidden = false;
  card.scrollIntoView({block: "nearest"}); // on a phone it is below what can be seen
  let text = "";
  return (more) => { text += more; show(code, text); };
}

/** Show an answer; `asked` is the question that it answers, `past` whether it comes from the history. */
export function showAnswer(answer, asked, past = false) {
  const card = find("answer");
  const words = answer.valid ? "Passed every check" : answer.sql ? "Did not pass the checks" : "No query came";
  card.className = `card answer ${answer.valid ? "passed" : "failed"}`;
  card.replaceChildren(...[
    make("div", {class: "title"},
      make("h2", {class: "verdict"}, symbol(answer.valid ? "yes" : "no"), words),
      answer.sql ? copyButton(answer.sql) : null),
    past ? make("p", {class: "muted asked", text: asked.question}) : null,
    answer.sql ? query(answer.sql) : null,
    answer.valid ? null : faults(answer.reasons),
    checks(answer, asked),
    answer.result ? rows(answer.result) : null,
    candidates(answer),
    facts(answer),
  ].filter(Boolean));
  card.hidden = false;
}

function query(sql) {
  const code = make("code"), block = make("pre", {class: "sql", tabindex: "0", "aria-label": "SQL"}, code);
  show(code, sql);
  return block;
}

function copyButton(sql) {
  const words = make("span", {text: "Copy"});
  const button = make("button", {type: "button", class: "copy", onclick: async () => {
    words.textContent = (await copied(sql)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { words.textContent = "Copy"; }, 2000);
    find("live").textContent = words.textContent;
  }}, symbol("copy"), words);
  return button;
}

/** Whether it is in the clipboard; where the page may not write there, the query is selected instead. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(find("answer").querySelector("pre.sql code"));
    return document.execCommand("copy"); // what is left over plain HTTP
  }
}

function faults(reasons) {
  return make("ul", {class: "faults"}, ...reasons.map(({code, message}) =>
    make("li", {}, make("span", {text: message}), " ", make("code", {class: "muted", text: code}))));
}

function checks(answer, asked) {
  const looked = CHECKS.filter(({when}) => !when || when(asked, answer));
  const broken = looked.findIndex(({codes}) => answer.reasons.some(({code}) => codes.includes(code)));
  const states = {yes: "passed", no: "failed", none: "not looked at"};
  return make("ul", {class: "checks", "aria-label": "Checks"}, ...looked.map(({words}, i) => {
    const state = broken < 0 ? (answer.valid ? "yes" : "none") : i < broken ? "yes" : i === broken ? "no" : "none";
    return make("li", {class: state}, symbol(state), words, make("span", {class: "sr", text: `: ${states[state]}`}));
  }));
}

function candidates(answer) {
  if ((answer.candidates ?? []).length < 2) return null;
  const chosen = answer.candidates.findIndex((one) => one.sql === answer.sql && one.valid === answer.valid);
  return make("details", {class: "candidates"},
    make("summary", {text: `${answer.candidates.length} different candidates were judged`}),
    make("ol", {}, ...answer.candidates.map((one, i) => make("li", {},
      make("p", {class: one.valid ? "yes" : "no"}, symbol(one.valid ? "yes" : "no"),
        i === chosen ? (one.valid ? "Chosen" : "Shown above") : one.valid ? "Passed" : one.reasons.map((r) => r.message).join("; ")),
      query(one.sql)))));
}

function rows({columns, rows: all, truncated}) {
  const body = make("tbody");
  const numeric = columns.map((_, i) => all.some((row) => typeof row[i] === "number") && all.every((row) => row[i] === null || typeof row[i] === "number"));
  const add = (from, to) => body.append(...all.slice(from, to).map((row) => make("tr", {}, ...row.map((value, i) => cell(value, numeric[i])))));
  add(0, FIRST_ROWS);
  const count = `${truncated ? "The first " : ""}${all.length.toLocaleString("en")} row${all.length === 1 ? "" : "s"}`;
  const more = all.length > FIRST_ROWS
    ? make("button", {type: "button", class: "quiet", text: `Show all ${all.length.toLocaleString("en")}`, onclick: () => { add(FIRST_ROWS); more.remove(); }})
    : null;
  return make("div", {class: "result"},
    make("div", {class: "title"},
      make("h3", {text: "Result"}),
      make("span", {class: "row"},
        make("small", {class: "muted", text: `${count}${truncated ? "; the rest is left out" : ""}`}),
        make("button", {type: "button", text: "Download CSV", onclick: () => download("result.csv", toCsv(columns, all))}))),
    all.length
      ? make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Rows"}, make("table", {},
        make("thead", {}, make("tr", {}, ...columns.map((name, i) => make("th", {scope: "col", class: numeric[i] ? "number" : null, text: name})))), body))
      : make("p", {class: "muted", text: "The query ran and found no rows."}),
    more);
}

function cell(value, numeric) {
  const kind = [numeric ? "number" : "", value === null ? "null" : ""].join(" ").trim();
  return make("td", {class: kind || null, text: value === null ? "NULL" : String(value)});
}

function facts(answer) {
  const said = [answer.repaired ? "Asked again once, with the error" : null, answer.model || null, answer.dialect,
    answer.latency_ms === undefined ? null : answer.latency_ms < 1000 ? `${Math.round(answer.latency_ms)} ms` : `${(answer.latency_ms / 1000).toFixed(1)} s`,
    answer.usage ? `${answer.usage.total_tokens} tokens` : null];
  return make("p", {class: "facts muted"}, ...said.filter(Boolean).map((text) => make("span", {text})));
}
