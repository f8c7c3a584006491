// Makes elements, and changes them only where something is different.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: h("td", {class: "number"}, "12", otherElement). Values that are functions listen to events. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** A part of the page that scrolls by itself. */
export const region = (name, kind, ...children) =>
  h("div", { class: kind, tabindex: "0", role: "region", "aria-label": name }, ...children);

/** A table with its caption. Columns are [heading, class]; one without a heading is []. */
export function table(kind, caption, columns, body) {
  const cells = columns.map(([text, kind]) =>
    text ? h("th", { scope: "col", class: kind }, text) : h("td"),
  );
  return h("table", { class: kind }, h("caption", {}, caption), h("thead", {}, h("tr", {}, ...cells)), body);
}

/** Set an element's text. */
export function put(element, text) {
  const value = String(text);
  if (element.lastText !== value) {
    element.lastText = value;
    element.textContent = value;
  }
}

/** Set or remove an attribute. */
export function mark(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Set a CSS custom property; what is drawn from it stands in the style sheet. */
export function vary(element, name, value) {
  const text = String(value);
  element.lastStyle ??= {};
  if (element.lastStyle[name] !== text) {
    element.lastStyle[name] = text;
    element.style.setProperty(name, text);
  }
}

/** An element that must be there. */
export function one(selector, inside = document) {
  const element = inside.querySelector(selector);
  if (!element) throw new Error(`the page has no ${selector}`);
  return element;
}

/** What a colour of the style sheet looks like in the theme that is on, for canvas: [red, green, blue]. */
export function colour(name) {
  const probe = one("#colour-probe");
  probe.style.color = `var(${name})`;
  const [red, green, blue] = getComputedStyle(probe)
    .color.match(/[\d.]+/g)
    .map(Number);
  return [red, green, blue];
}

/**
 * Keep the rows of a list: one element per item, made once per key, updated every time, in the items' order.
 * `make(item)` returns {element, update(item)}.
 */
export function keyed(parent, key, make) {
  const rows = new Map();
  return (items) => {
    const wanted = new Set(items.map(key));
    for (const [name, row] of rows) {
      if (!wanted.has(name)) {
        row.element.remove();
        rows.delete(name);
      }
    }
    let place = parent.firstChild;
    for (const item of items) {
      const name = key(item);
      let row = rows.get(name);
      if (!row) {
        row = make(item);
        rows.set(name, row);
        parent.insertBefore(row.element, place);
      } else if (row.element === place) place = place.nextSibling;
      else parent.insertBefore(row.element, place);
      row.update(item);
    }
  };
}
