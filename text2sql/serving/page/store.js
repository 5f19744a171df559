// What this browser keeps: the key for this tab, the history and the draft until they are cleared.

const HISTORY = "text2sql.history", KEEP = "text2sql.keep", DRAFT = "text2sql.draft", KEY = "text2sql.key";
const ENTRIES = 50;
const SCHEMA_CHARS = 50_000; // a longer schema is not kept with its question

function read(area, name, otherwise) {
  try {
    const found = JSON.parse(window[area].getItem(name));
    return found ?? otherwise;
  } catch { // storage is switched off, or holds what is not ours
    return otherwise;
  }
}

function write(area, name, value) {
  try {
    if (value === null) window[area].removeItem(name);
    else window[area].setItem(name, JSON.stringify(value));
    return true;
  } catch { // full, or switched off
    return false;
  }
}

export const key = {
  get: () => read("sessionStorage", KEY, ""),
  set: (value) => write("sessionStorage", KEY, value || null),
};

let entries = null; // this page's own, kept also where the browser keeps nothing

export const history = {
  get kept() { return read("localStorage", KEEP, true) !== false; },
  keep(wanted) {
    write("localStorage", KEEP, wanted ? null : false);
    if (wanted) save();
    else { write("localStorage", HISTORY, null); write("localStorage", DRAFT, null); }
  },
  all() {
    if (entries === null) {
      const found = this.kept ? read("localStorage", HISTORY, []) : [];
      entries = Array.isArray(found) ? found.filter((e) => typeof e?.question === "string" && typeof e?.sql === "string") : [];
    }
    return entries;
  },
  add(entry) {
    const schema = entry.schema.length <= SCHEMA_CHARS ? entry.schema : null;
    const same = (e) => e.question === entry.question && e.sql === entry.sql && e.schema === schema;
    entries = [{...entry, schema}, ...this.all().filter((e) => !same(e))].slice(0, ENTRIES);
    save();
  },
  /** Whether what another tab has stored under a name (null: it emptied the store) changes what is listed here. */
  changed(name) {
    if ((name === HISTORY || name === null) && this.kept) entries = null; // or this tab would write over it
    return name === HISTORY || name === KEEP || name === null;
  },
  clear() {
    entries = [];
    write("localStorage", HISTORY, null);
  },
};

function save() {
  if (!history.kept) return;
  for (let kept = entries ?? []; !write("localStorage", HISTORY, kept) && kept.length; ) {
    kept = kept.slice(0, Math.floor(kept.length / 2));
  }
}

export const draft = {
  get: () => (history.kept ? read("localStorage", DRAFT, {}) : {}),
  set: (value) => { if (history.kept) write("localStorage", DRAFT, value); },
};
