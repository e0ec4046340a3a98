// The texts that one node's script has had, for undo and redo in the storyboard.

const MOST = 100;
const PAUSE_MS = 1500; // typing in the node without a pause is one step

export class History {
  #texts = [];
  #at = -1;
  #typed = 0; // when the newest text was typed elsewhere, 0 when it came from here

  get canUndo() {
    return this.#at > 0;
  }

  get canRedo() {
    return this.#at < this.#texts.length - 1;
  }

  get before() {
    return this.#texts[this.#at - 1];
  }

  get after() {
    return this.#texts[this.#at + 1];
  }

  /** A text that this editor has written. */
  add(text) {
    this.#add(text);
    this.#typed = 0;
  }

  /** A text that was found in the node: typed there, or brought back by the graph's own undo. */
  found(text, now = performance.now()) {
    if (text === this.#texts[this.#at]) return;
    const known = this.#nearest(text);
    if (known >= 0) {
      this.#at = known;
      this.#typed = 0;
      return;
    }
    const same = this.#typed && now - this.#typed < PAUSE_MS && !this.canRedo && this.canUndo;
    if (same) this.#texts[this.#at] = text;
    else this.#add(text);
    this.#typed = now;
  }

  step(change) {
    this.#at += change;
    this.#typed = 0;
  }

  /** Where this text stands nearest to the present one, -1 where it is new. */
  #nearest(text) {
    const distance = (index) => Math.abs(index - this.#at);
    return this.#texts.reduce((best, one, index) => {
      if (one !== text) return best;
      return best < 0 || distance(index) < distance(best) ? index : best;
    }, -1);
  }

  #add(text) {
    if (text === this.#texts[this.#at]) return;
    this.#texts.splice(this.#at + 1, Infinity, text);
    if (this.#texts.length > MOST) this.#texts.shift();
    this.#at = this.#texts.length - 1;
  }
}
