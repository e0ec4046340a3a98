// One shot of the storyboard as a card. A card is kept and filled again, so that focus stays.

import { allow, iconButton, labelled, name } from "./controls.js";
import { element, setAttribute, setText } from "./dom.js";
import { Field } from "./field.js";
import { Thumbnail } from "./thumbnail.js";

const RARE = [
  "camera",
  "recall",
  "seed",
  "refs",
  "strength",
  "lora",
  "negative",
  "audio",
  "keyframe",
];
const SIZES = "throughline-sizes";

export class ShotCard {
  root;
  shot = null;
  #text;
  #actions;
  #picture;
  #parts = {};
  #fields = {};

  /**
   * `actions`: {change(card, field, value), tag(card, name, tagged)} give promises of whether it
   * was done; move(card, change), add(card), duplicate(card), remove(card), split(card),
   * jump(card), drag(card, event), drop().
   */
  constructor({ text, actions, picture }) {
    this.#text = text;
    this.#actions = actions;
    this.#picture = picture;
    this.root = element("li", { class: "throughline-shot-card" }, ...this.#build());
    this.root.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show a shot; `board` has the characters, `warnings` are of its line. */
  show(shot, { board, warnings, first, last, editable }) {
    this.shot = shot;
    const t = this.#text;
    const values = { shot: shot.id };
    setAttribute(this.root, "data-shot", shot.id);
    setAttribute(this.root, "data-transition", shot.transition ?? "unmarked");
    setAttribute(this.root, "aria-label", t("shot.label", values));
    this.#nameControls(values);
    setText(this.#parts.number, shot.id);
    setText(this.#parts.place, shot.location ? `#${shot.location}` : "");
    allow(this.#parts.up, editable && !first);
    allow(this.#parts.down, editable && !last);
    for (const [key, field] of Object.entries(this.#fields)) {
      const value = shot[key];
      field.show(Array.isArray(value) ? value.join(", ") : value);
      field.control.readOnly = !editable;
      if (field.control.tagName === "SELECT") field.control.disabled = !editable;
    }
    this.#fillPeople(shot, board, editable);
    setText(this.#parts.warnings, warnings.map((warning) => warning.text).join("\n"));
    for (const kind of ["image", "video"])
      setText(this.#parts[kind], shot.prompts[kind]);
    const rare = RARE.filter((key) => hasValue(shot[key])).length;
    setText(this.#parts.more, rare ? t("shot.more.count", { count: rare }) : t("shot.more"));
  }

  /** Put the focus on one of the card's controls by its name. */
  focus(control, select = false) {
    const target = this.#parts[control] ?? this.#fields[control]?.control;
    target?.focus({ preventScroll: true });
    this.root.scrollIntoView({ block: "nearest" });
    if (select) target?.select?.();
  }

  /** Name of the control that has the focus. */
  focused() {
    const has = (control) => control === document.activeElement;
    for (const [key, part] of Object.entries(this.#parts)) if (has(part)) return key;
    for (const [key, field] of Object.entries(this.#fields)) if (has(field.control)) return key;
    return "grip";
  }

  #build() {
    return [
      this.#buildHead(),
      this.#buildBracket(),
      this.#buildCaption(),
      this.#buildPeople(),
      this.#line("motion"),
      this.#buildMore(),
      (this.#parts.warnings = element("p", { class: "throughline-warning" })),
    ];
  }

  #buildHead() {
    const act = (what, ...rest) => (event) => {
      if (!event.currentTarget.hasAttribute("aria-disabled")) this.#actions[what](this, ...rest);
    };
    const parts = this.#parts;
    parts.grip = iconButton("pi-bars", "", () => {}, "throughline-grip");
    parts.grip.draggable = true;
    parts.grip.addEventListener("dragstart", (event) => this.#actions.drag(this, event));
    parts.grip.addEventListener("dragend", () => this.#actions.drop());
    parts.number = element("button", {
      type: "button",
      class: "throughline-shot-number",
      onclick: act("jump"),
    });
    parts.place = element("span", { class: "throughline-place" });
    parts.up = iconButton("pi-arrow-up", "", act("move", -1));
    parts.down = iconButton("pi-arrow-down", "", act("move", 1));
    parts.add = iconButton("pi-plus", "", act("add"));
    parts.duplicate = iconButton("pi-copy", "", act("duplicate"));
    parts.remove = iconButton("pi-trash", "", act("remove"));
    const tools = [parts.up, parts.down, parts.add, parts.duplicate, parts.remove];
    return element(
      "div",
      { class: "throughline-shot-head" },
      parts.grip,
      parts.number,
      parts.place,
      element("div", { class: "throughline-tools" }, ...tools),
    );
  }

  #nameControls(values) {
    const t = this.#text;
    const parts = this.#parts;
    name(parts.grip, t("shot.grip", values));
    name(parts.number, t("shot.jump", values));
    for (const what of ["up", "down", "add", "duplicate", "remove"])
      name(parts[what], t(`shot.${what}`, values));
    for (const key of ["size", "seconds", "transition", "caption"])
      name(this.#fields[key].control, t(`shot.${key}.label`, values), t(`shot.${key}`));
    name(parts.tag, t("shot.tag.label", values), t("shot.tag"));
  }

  #buildBracket() {
    const t = this.#text;
    const size = element("input", {
      type: "text",
      class: "throughline-input throughline-size",
      list: SIZES,
      placeholder: t("shot.size"),
    });
    const seconds = element("input", {
      type: "number",
      class: "throughline-input throughline-seconds",
      min: "0",
      step: "any",
      placeholder: "–",
    });
    const option = (value) => element("option", { value }, t(`shot.transition.${value || "none"}`));
    const transition = element(
      "select",
      { class: "throughline-input throughline-transition" },
      ...["", "cut", "continue"].map(option),
    );
    this.#field("size", size);
    this.#field("seconds", seconds);
    this.#field("transition", transition);
    const length = element("span", { class: "throughline-length" }, seconds, t("shot.s"));
    return element("div", { class: "throughline-bracket" }, size, length, transition);
  }

  #buildCaption() {
    const caption = element("textarea", {
      class: "throughline-input throughline-caption",
      rows: "1",
    });
    this.#field("caption", caption);
    return caption;
  }

  #buildPeople() {
    const t = this.#text;
    this.#parts.people = element("ul", { class: "throughline-people", "aria-label": t("people") });
    this.#parts.tag = element("select", {
      class: "throughline-input throughline-tag",
      onchange: (event) => {
        const chosen = event.target.value;
        event.target.value = "";
        if (chosen) this.#actions.tag(this, chosen, true);
      },
    });
    return element(
      "div",
      { class: "throughline-cast-line" },
      this.#parts.people,
      this.#parts.tag,
    );
  }

  #buildMore() {
    const t = this.#text;
    this.#parts.more = element("summary", {});
    this.#parts.image = element("p", { class: "throughline-derived" });
    this.#parts.video = element("p", { class: "throughline-derived" });
    this.#parts.split = element(
      "button",
      { type: "button", class: "throughline-button", onclick: () => this.#actions.split(this) },
      t("shot.split"),
    );
    const prompt = (kind) =>
      element(
        "div",
        { class: "throughline-field" },
        element("span", { class: "throughline-label" }, t(`shot.prompt.${kind}`)),
        this.#parts[kind],
      );
    return element(
      "details",
      { class: "throughline-more" },
      this.#parts.more,
      ...RARE.map((key) => this.#line(key)),
      prompt("image"),
      prompt("video"),
      this.#parts.split,
    );
  }

  /** A labelled line of text for one of the settings in braces. */
  #line(key) {
    const save = (value) => this.#actions.change(this, key, value);
    const made = labelled(this.#text(`shot.${key}`), "input", { type: "text" }, save);
    this.#fields[key] = made.field;
    return made.root;
  }

  #field(key, control) {
    this.#fields[key] = new Field(control, (value) => this.#actions.change(this, key, value));
  }

  #fillPeople(shot, board, editable) {
    const t = this.#text;
    const { people, tag } = this.#parts;
    const chips = shot.characters.map((who) => {
      const one = board.characters.find((character) => character.name === who);
      const label = t("shot.untag", { shot: shot.id, name: who });
      const remove = iconButton("pi-times", label, () => this.#actions.tag(this, who, false));
      setAttribute(remove, "hidden", !editable);
      const picture = new Thumbnail(this.#picture).show(one?.refs[0] ?? "", who);
      return element("li", { class: "throughline-chip" }, picture, who, remove);
    });
    const now = JSON.stringify([shot.characters, board.characters, editable]);
    if (people.dataset.shown !== now) {
      people.dataset.shown = now;
      people.replaceChildren(...chips);
      const others = board.characters.filter((one) => !shot.characters.includes(one.name));
      tag.replaceChildren(
        element("option", { value: "" }, t("shot.tag")),
        ...others.map((one) => element("option", { value: one.name }, one.name)),
      );
      setAttribute(tag, "hidden", !others.length || !editable);
    }
  }

  /** Alt and an arrow key move the shot from wherever the focus is in its card. */
  #key(event) {
    const change = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!event.altKey || !change || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.#actions.move(this, change);
  }
}

function hasValue(value) {
  return Array.isArray(value) ? value.length > 0 : value !== null && value !== "";
}

/** The list of usual shot sizes, once for all cards of a view. */
export function sizeSuggestions(text) {
  const sizes = text("sizes").split(",").map((size) => size.trim());
  return element(
    "datalist",
    { id: SIZES },
    ...sizes.map((size) => element("option", { value: size })),
  );
}
