// A control that an artist types into: it is saved when it is left, Escape takes the typing back,
// and what the script says meanwhile never replaces what is being typed.

export class Field {
  control;
  #save;
  #shown = "";
  #newer = null; // what the script says since the typing began
  #refused = false;
  #saving = false;

  /** `save(value)`: a promise of whether the script took it; `multiline`: Enter saves, too. */
  constructor(control, save) {
    this.control = control;
    this.#save = save;
    control.addEventListener("change", () => this.commit());
    control.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show what the script says. */
  show(value) {
    const text = value === null || value === undefined ? "" : String(value);
    if (this.#saving) return; // what comes of it is shown right after
    const typing = this.control === document.activeElement && this.#dirty();
    if (typing || (this.#refused && text === this.#shown)) {
      this.#newer = text === this.#shown ? null : text;
      return;
    }
    this.#take(text);
  }

  /** Save what was typed, if anything was. */
  async commit() {
    if (!this.#dirty()) return;
    const before = this.#shown;
    if (this.#newer !== null) {
      this.#take(this.#newer);
      this.control.dispatchEvent(new CustomEvent("throughline-newer", { bubbles: true }));
      return;
    }
    const wanted = this.control.value.trim().replace(/\s*[\r\n]+\s*/g, " ");
    this.#shown = this.control.value; // saved once, though leaving the control says it again
    this.#saving = true;
    const accepted = await this.#save(wanted);
    this.#saving = false;
    if (!accepted) this.#shown = before;
    this.#refuse(!accepted);
  }

  #take(text) {
    this.#shown = text;
    this.#newer = null;
    this.#refuse(false);
    if (this.control.value !== text) this.control.value = text;
  }

  #refuse(refused) {
    this.#refused = refused;
    if (refused) this.control.setAttribute("aria-invalid", "true");
    else this.control.removeAttribute("aria-invalid");
  }

  #dirty() {
    return this.control.value !== this.#shown;
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && this.control.tagName !== "SELECT") {
      event.preventDefault(); // a shot is one line
      this.commit();
    } else if (event.key === "Escape" && this.#dirty()) {
      event.stopPropagation();
      this.#take(this.#newer ?? this.#shown);
    }
  }
}
