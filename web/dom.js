// Building DOM without a framework. Text always goes in as text, never as HTML.

/** An element with properties (`class`, `dataset`, `on...`, attributes) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(made.dataset, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else setAttribute(made, name, value);
  }
  made.append(...children);
  return made;
}

/** Set or, with null, undefined or false, remove an attribute; writes only what changes. */
export function setAttribute(target, name, value) {
  if (value === null || value === undefined || value === false) {
    if (target.hasAttribute(name)) target.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (target.getAttribute(name) !== text) target.setAttribute(name, text);
}

/** Set an element's text; writes only what changes, so that selections and focus stay. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
