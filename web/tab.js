// The tab's frame: two views, of which one is there at a time.

import { element, setAttribute } from "./dom.js";

let tabs = 0; // for ids that are unique in the page

export class Tab {
  shown = ""; // name of the view that is there
  #host;
  #views;
  #buttons = {};
  #panel;
  #root;
  #view = null;
  #onChange;

  /** `views`: {name: {label, make(host)}}; `onChange(name)` hears what the user has chosen. */
  constructor(host, { views, shown, onChange }) {
    this.#host = host;
    this.#views = views;
    this.#onChange = onChange;
    this.#build();
    this.show(shown);
  }

  close() {
    this.#view?.close();
    this.#root.remove();
  }

  isIn(host) {
    return host.contains(this.#root);
  }

  /** Show one view; the other one is closed. */
  show(name) {
    this.#view?.close();
    this.shown = name;
    for (const [key, button] of Object.entries(this.#buttons)) {
      setAttribute(button, "aria-selected", key === name ? "true" : "false");
      button.tabIndex = key === name ? 0 : -1;
    }
    setAttribute(this.#panel, "aria-labelledby", this.#buttons[name].id);
    setAttribute(this.#panel, "data-view", name);
    this.#view = this.#views[name].make(this.#panel);
  }

  #build() {
    const id = `throughline-tab-${++tabs}`;
    const names = Object.keys(this.#views);
    for (const name of names)
      this.#buttons[name] = element(
        "button",
        {
          type: "button",
          role: "tab",
          id: `${id}-${name}`,
          class: "throughline-view-button",
          "aria-controls": id,
          "aria-label": this.#views[name].label,
          onclick: () => this.#choose(name),
          onkeydown: (event) => this.#key(event, names, name),
        },
        this.#views[name].label,
      );
    this.#panel = element("div", { id, role: "tabpanel", class: "throughline-panel" });
    this.#root = element(
      "section",
      { class: "throughline", "aria-label": "Throughline" },
      element(
        "div",
        { class: "throughline-top" },
        element("h2", { class: "throughline-heading" }, "Throughline"),
        element(
          "div",
          { role: "tablist", class: "throughline-views", "aria-label": "Throughline" },
          ...Object.values(this.#buttons),
        ),
      ),
      this.#panel,
    );
    this.#host.replaceChildren(this.#root);
  }

  #choose(name) {
    this.#onChange(name);
    this.show(name);
  }

  #key(event, names, name) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = names[(names.indexOf(name) + step + names.length) % names.length];
    this.#choose(next);
    this.#buttons[next].focus();
  }
}
