// SQL shown: tokens get a class each, and long one-liners a line a clause. Only white space is changed.

const KEYWORDS = new Set(`all and any as asc between by case cast collate cross current_date current_time
  current_timestamp desc distinct else end escape except exists false fetch filter first following for from full glob
  group having ilike in inner intersect is isnull join last lateral left like limit materialized natural next not
  notnull null nulls offset on only or order outer over partition preceding qualify range recursive regexp right row
  rows select similar some then ties to top true unbounded union using values when where window with within`.split(/\s+/));

const TOKEN = new RegExp([
  String.raw`(?<comment>--[^\n]*|/\*[\s\S]*?(?:\*/|$))`,
  String.raw`(?<string>'(?:[^']|'')*(?:'|$))`,
  String.raw`(?<name>"(?:[^"]|"")*(?:"|$)|` + "`(?:[^`]|``)*(?:`|$)" + String.raw`|\[[^\]\n]*\])`,
  String.raw`(?<number>\b\d+(?:\.\d*)?(?:[eE][-+]?\d+)?\b|\.\d+)`,
  String.raw`(?<word>[\p{L}_][\p{L}\p{N}_$]*)`,
  String.raw`(?<space>\s+)`,
  String.raw`(?<other>[\s\S])`,
].join("|"), "gu");

const CLAUSES = new Set(["from", "where", "group", "having", "order", "limit", "offset", "union", "except",
  "intersect", "window", "qualify"]);
const JOINS = new Set(["join", "left", "right", "full", "inner", "cross", "natural"]);
const LONG = 64;

/** [{kind, text}] of a query; the texts, joined, are the query. */
export function tokens(sql) {
  const found = [];
  for (const match of sql.matchAll(TOKEN)) {
    let [kind, text] = Object.entries(match.groups).find(([, value]) => value !== undefined);
    if (kind === "word") {
      const called = /^\s*\(/.test(sql.slice(match.index + text.length, match.index + text.length + 20));
      kind = KEYWORDS.has(text.toLowerCase()) ? "keyword" : called ? "function" : "word";
    }
    found.push({kind, text});
  }
  return found;
}

/** The tokens with a line break instead of the space before each outer clause, where the query is one long line. */
export function laidOut(found) {
  const whole = found.reduce((sum, token) => sum + token.text.length, 0);
  if (whole <= LONG || found.some((token) => token.text.includes("\n"))) return found;
  let depth = 0, before = "";
  return found.map((token, i) => {
    if (token.text === "(") depth += 1;
    if (token.text === ")") depth -= 1;
    const next = (found[i + 1]?.text ?? "").toLowerCase();
    const broken = token.kind === "space" && depth === 0 && found[i + 1]?.kind === "keyword"
      && (CLAUSES.has(next) || (JOINS.has(next) && !JOINS.has(before)) || (next === "select" && before !== "as"));
    if (token.kind !== "space") before = token.text.toLowerCase();
    return broken ? {kind: "space", text: "\n"} : token;
  });
}

/** Put a query into an element, as text. */
export function show(element, sql) {
  element.replaceChildren(...laidOut(tokens(sql)).map(({kind, text}) => {
    if (kind === "space" || kind === "other" || kind === "word") return document.createTextNode(text);
    const span = document.createElement("span");
    span.className = `sql-${kind}`;
    span.textContent = text;
    return span;
  }));
}
