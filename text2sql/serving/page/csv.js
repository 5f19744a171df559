// A result as CSV, by the rule of cells.py: what a spreadsheet would run as a formula is marked as text.

const FORMULA = /^\s*[=+\-@＝＋－＠\t\r|]/;
const NUMBER = /^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$/;

/** RFC 4180 text of columns and rows. */
export function toCsv(columns, rows) {
  return [columns, ...rows].map((row) => {
    const line = row.map((cell) => (cell === null ? "" : written(cell)));
    return line.length === 1 && line[0] === "" ? '""' : line.join(",");
  }).map((line) => `${line}\r\n`).join("");
}

function written(cell) {
  let text = String(cell);
  if (typeof cell === "string" && FORMULA.test(text) && !NUMBER.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Have the browser save it. */
export function download(name, text) {
  const link = document.createElement("a");
  // The mark is for Excel, which takes UTF-8 for another encoding without.
  link.href = URL.createObjectURL(new Blob(["\ufeff", text], {type: "text/csv;charset=utf-8"}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
