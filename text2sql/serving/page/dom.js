// Elements from text: nothing that a user, a model or a database says is ever read as HTML.

export const find = (id) => document.getElementById(id);

/** An element with properties (class, text, data-…) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A symbol of our own; decoration, its meaning stands beside it as text. */
const PATHS = {
  yes: "M3.5 8.5l3 3 6-7", no: "M4.5 4.5l7 7m0-7l-7 7", none: "M4.5 8h7", copy: "M6 6V3.5h6.5V10H10M3.5 6H10v6.5H3.5z",
};

export function symbol(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg"), path = document.createElementNS(space, "path");
  for (const [key, value] of [["viewBox", "0 0 16 16"], ["aria-hidden", "true"], ["class", `symbol ${name}`]]) svg.setAttribute(key, value);
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
