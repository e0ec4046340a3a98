// The line between two scenes: number, place, and what can be done with the scene.

import { iconButton, name } from "./controls.js";
import { element, setAttribute, setText } from "./dom.js";
import { Field } from "./field.js";

export class SceneCard {
  root;
  scene = null;
  #text;
  #number;
  #field;
  #add;
  #remove;

  /** `actions`: place(scene, place) gives a promise of whether it was done; add(scene),
   * remove(scene). */
  constructor({ text, actions }) {
    this.#text = text;
    this.#number = element("span", { class: "throughline-scene-number" });
    const place = element("input", {
      type: "text",
      class: "throughline-input throughline-scene-place",
      list: "throughline-places",
      placeholder: text("scene.place"),
    });
    this.#field = new Field(place, (value) =>
      actions.place(this.scene, value.replace(/^#\s*/, "")),
    );
    this.#add = iconButton("pi-plus", "", () => actions.add(this.scene));
    this.#remove = iconButton("pi-trash", "", () => actions.remove(this.scene));
    this.root = element(
      "li",
      { class: "throughline-scene" },
      this.#number,
      place,
      element("div", { class: "throughline-tools" }, this.#add, this.#remove),
    );
  }

  show(scene, editable) {
    const t = this.#text;
    const values = { scene: scene.number };
    this.scene = scene;
    setText(this.#number, t("scene", values));
    this.#field.show(scene.location);
    this.#field.control.readOnly = !editable;
    name(this.#field.control, t("scene.place.label", values), t("scene.place"));
    name(this.#add, t("scene.add", values));
    name(this.#remove, t("scene.remove", values));
    setAttribute(this.#remove, "hidden", scene.line === null);
  }

  focus() {
    this.#add.focus({ preventScroll: true });
    this.root.scrollIntoView({ block: "nearest" });
  }
}
