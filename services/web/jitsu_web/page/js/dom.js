// Make elements. Whatever the API sends is untrusted text, so this file is the only one that makes nodes, and it makes
// them from text alone: nothing in this page ever assigns markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element. Properties that begin with "on" are listeners, "class" and what has a dash are attributes, a value of
 * null or false leaves the property out. Children are nodes, texts, or lists of them; null is left out.
 */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Make an element of a picture; all its properties are attributes. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.includes("-") && element.namespaceURI !== SVG && !READ_ONLY.has(name)) {
      element[name] = value;
    } else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/** Properties that a script cannot assign, or that mean something else than the attribute. */
const READ_ONLY = new Set(["list", "form", "role", "class", "for"]);

/** Append children: nodes, texts, or lists of them. */
export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Replace all children. */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/** Change a text only if it differs, so that nothing is laid out again for nothing. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Change an attribute only if it differs; null removes it. */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Text that only screen readers meet. */
export function unseen(text) {
  return h("span", { class: "unseen" }, text);
}

/** A button of the page's one shape. */
export function button(label, action, properties = {}) {
  const { kind = "plain", ...rest } = properties;
  return h("button", { type: "button", class: `button ${kind}`, onclick: action, ...rest }, label);
}
