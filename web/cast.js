// Who and what returns in a storyboard: characters and places, and the film's own settings.

import { iconButton, labelled } from "./controls.js";
import { element, setAttribute, setText } from "./dom.js";
import { Thumbnail } from "./thumbnail.js";

const SETTINGS = ["title", "story", "style", "global", "aspect", "fps"];
const LONG = ["story", "style", "global"];
const KINDS = { character: "characters", location: "locations" };

export class Cast {
  root;
  #text;
  #edit;
  #picture;
  #rows = { character: [], location: [] };
  #parts = {};
  #settings = {};

  /** `edit(edit)`: a promise of whether it was done; `picture(path)`: the URL of a route. */
  constructor({ text, edit, picture }) {
    this.#text = text;
    this.#edit = edit;
    this.#picture = picture;
    this.root = element("div", { class: "throughline-cast" }, this.#buildFilm(), this.#buildCast());
  }

  show(board, editable) {
    for (const [key, field] of Object.entries(this.#settings)) {
      field.show(board.settings[key]);
      field.control.readOnly = !editable;
    }
    const count = board.characters.length + board.locations.length;
    setText(this.#parts.summary, this.#text("cast", { count }));
    setText(this.#parts.film, this.#text("film", { title: board.settings.title }).trim());
    for (const [kind, list] of Object.entries(KINDS)) this.#fillKind(kind, board[list], editable);
    for (const button of this.#parts.adding) setAttribute(button, "hidden", !editable);
  }

  #buildFilm() {
    const line = (key) => {
      const save = (value) => this.#edit({ edit: "change_setting", setting: key, value });
      const kind = LONG.includes(key) ? ["textarea", { rows: 1 }] : ["input", { type: "text" }];
      const made = labelled(this.#text(`setting.${key}`), ...kind, save);
      this.#settings[key] = made.field;
      return made.root;
    };
    this.#parts.film = element("summary", {});
    return element(
      "details",
      { class: "throughline-fold" },
      this.#parts.film,
      ...SETTINGS.map(line),
    );
  }

  #buildCast() {
    const t = this.#text;
    const add = (kind) =>
      element(
        "button",
        { type: "button", class: "throughline-button", onclick: () => this.#add(kind) },
        t(`${kind}.add`),
      );
    this.#parts.summary = element("summary", {});
    const list = (label) => element("ul", { class: "throughline-roles", "aria-label": label });
    this.#parts.character = list(t("people"));
    this.#parts.location = list(t("places"));
    this.#parts.adding = [add("character"), add("location")];
    return element(
      "details",
      { class: "throughline-fold" },
      this.#parts.summary,
      this.#parts.character,
      this.#parts.location,
      element("div", { class: "throughline-actions" }, ...this.#parts.adding),
    );
  }

  #fillKind(kind, ones, editable) {
    const rows = this.#rows[kind];
    while (rows.length > ones.length) rows.pop().root.remove();
    while (rows.length < ones.length) {
      const row = this.#row(kind);
      rows.push(row);
      this.#parts[kind].append(row.root);
    }
    rows.forEach((row, index) => this.#fill(row, kind, ones[index], editable));
  }

  #row(kind) {
    const t = this.#text;
    const row = { name: "" };
    const change = (field) => (value) =>
      this.#edit({ edit: "change_definition", name: row.name, field, value });
    const rename = (value) => this.#edit({ edit: "rename", name: row.name, to: value });
    const line = { type: "text" };
    const named = labelled(t(`${kind}.name`), "input", line, rename);
    const looks = t("definition.description");
    const described = labelled(looks, "textarea", { rows: 1 }, change("description"));
    const pictured = labelled(t("definition.refs"), "input", line, change("ref"));
    row.fields = { name: named.field, description: described.field, refs: pictured.field };
    row.pictures = element("div", { class: "throughline-pictures" });
    row.remove = iconButton("pi-trash", "", () =>
      this.#edit({ edit: "remove_definition", name: row.name }),
    );
    const head = element("div", { class: "throughline-role-head" }, named.root, row.remove);
    row.root = element(
      "li",
      { class: "throughline-role" },
      row.pictures,
      element("div", { class: "throughline-text" }, head, described.root, pictured.root),
    );
    return row;
  }

  #fill(row, kind, one, editable) {
    row.name = one.name;
    row.fields.name.show(one.name);
    row.fields.description.show(one.description);
    row.fields.refs.show(one.refs.join(", "));
    for (const field of Object.values(row.fields)) field.control.readOnly = !editable;
    const label = this.#text("definition.remove", { name: one.name });
    setAttribute(row.remove, "aria-label", label);
    setAttribute(row.remove, "title", label);
    setAttribute(row.remove, "hidden", !editable || one.line === null);
    const shown = JSON.stringify([one.name, one.refs]);
    if (row.pictures.dataset.shown === shown) return;
    row.pictures.dataset.shown = shown;
    const files = one.refs.length ? one.refs : [""];
    const thumbnail = new Thumbnail(this.#picture);
    row.pictures.replaceChildren(...files.map((file) => thumbnail.show(file, one.name)));
  }

  /** Define somebody or some place under a name that is not taken, and let it be typed over. */
  async #add(kind) {
    const taken = Object.values(this.#rows).flat().map((row) => row.name.toLowerCase());
    const word = this.#text(`${kind}.new`);
    let name = word;
    for (let number = 2; taken.includes(name.toLowerCase()); number++) name = `${word} ${number}`;
    if (!(await this.#edit({ edit: "define", what: kind, name }))) return;
    const row = this.#rows[kind].find((one) => one.name === name);
    row?.fields.name.control.focus();
    row?.fields.name.control.select();
  }
}
