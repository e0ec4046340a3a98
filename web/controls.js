// Buttons and fields as the storyboard uses them everywhere.

import { element, setAttribute } from "./dom.js";
import { Field } from "./field.js";

/** A small button that is a picture; `label` is its name and its explanation. */
export function iconButton(icon, label, onclick, more = "") {
  const button = element(
    "button",
    { type: "button", class: `throughline-button throughline-icon ${more}`.trim(), onclick },
    element("span", { class: `pi ${icon}`, "aria-hidden": "true" }),
  );
  name(button, label);
  return button;
}

/** Give a control its name and its explanation. */
export function name(control, label, title = label) {
  setAttribute(control, "aria-label", label);
  setAttribute(control, "title", title);
}

/** A button that cannot be used stays in reach of the keyboard and says why. */
export function allow(button, allowed) {
  setAttribute(button, "aria-disabled", !allowed && "true");
}

/** A line or a box of text that is saved when it is left: {root, field}, `root` with its label. */
export function labelled(label, tag, properties, save) {
  const control = element(tag, { class: "throughline-input", ...properties });
  const field = new Field(control, save);
  const words = element("span", { class: "throughline-label" }, label);
  return { root: element("label", { class: "throughline-field" }, words, control), field };
}
