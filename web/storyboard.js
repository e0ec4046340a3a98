// What the tab knows of a script. Its text is in a node, the server reads and edits it. No DOM.

import { History } from "./history.js";

const ROUTE = "/throughline/storyboard";

export class StoryboardStore extends EventTarget {
  key = ""; // of the node, "" without one
  text = "";
  linked = false;
  choices = [];
  board = null; // what the server said of the text, or of the last text that it could read
  mistake = null; // {error, line, column} of the text
  empty = false; // nothing is wrong with the text but that it has no shot
  refusal = ""; // why the last edit was not made
  #side;
  #request;
  #histories = new WeakMap(); // by workflow, then by key of the node
  #workflow = null;
  #last = Promise.resolve(true); // edits are made one after the other
  #asked = 0;

  /** `request(path, body)` gives the server's answer to a POST. */
  constructor(side, request) {
    super();
    this.#side = side;
    this.#request = request;
  }

  get editable() {
    return Boolean(this.key) && !this.linked && !this.mistake && !this.foreign;
  }

  /** The name of the form that the text is in when that is not a script, else "". */
  get foreign() {
    const form = this.board?.form ?? "script";
    return this.mistake || this.empty || form === "script" ? "" : form;
  }

  get canUndo() {
    return this.#mayWrite() && this.#history.canUndo;
  }

  get canRedo() {
    return this.#mayWrite() && this.#history.canRedo;
  }

  notify() {
    this.dispatchEvent(new Event("change"));
  }

  /** Look at the graph; what has changed there is read again. */
  look() {
    const { key, text, linked, choices } = this.#side.look();
    const workflow = this.#side.workflow;
    const other = key !== this.key || workflow !== this.#workflow;
    const titles = JSON.stringify(choices) !== JSON.stringify(this.choices);
    if (!other && text === this.text && linked === this.linked && !titles) return;
    const read = other || text !== this.text || linked !== this.linked;
    Object.assign(this, { key, text, linked, choices });
    this.#workflow = workflow;
    if (other) Object.assign(this, { board: null, mistake: null, empty: false, refusal: "" });
    if (key && !linked) this.#history.found(text);
    if (read && key && !linked) this.#read(text);
    this.notify();
  }

  choose(key) {
    this.#side.choose(key);
    this.look();
  }

  /** Show a line of the text in its node. */
  jump(line, column) {
    return this.#side.jump(line, column);
  }

  /** Change the script; a promise of whether that was done. `edit`: see planning/edits.py. */
  edit(edit) {
    this.#last = this.#last.then(() => this.#edit(edit));
    return this.#last;
  }

  undo() {
    return this.#step(-1);
  }

  redo() {
    return this.#step(1);
  }

  async #edit(edit) {
    const { key, text } = this;
    this.refusal = "";
    const answer = await this.#ask("edit", { script: text, edit });
    if (answer.error) this.refusal = answer.error;
    else if (answer.script !== text) {
      if (!this.#side.write(key, text, answer.script)) this.refusal = "newer";
      else if (this.key === key) {
        this.#history.add(answer.script);
        this.text = answer.script;
        this.#take(answer.storyboard);
      }
    }
    this.notify();
    if (this.refusal === "newer") this.look();
    return !this.refusal;
  }

  async #step(change) {
    await this.#last;
    this.look();
    const text = change < 0 ? this.#history.before : this.#history.after;
    if (!this.#mayWrite() || text === undefined) return false;
    this.refusal = "";
    if (!this.#side.write(this.key, this.text, text)) return false;
    this.#history.step(change);
    this.text = text;
    await this.#read(text);
    return true;
  }

  #mayWrite() {
    return Boolean(this.key) && !this.linked;
  }

  get #history() {
    const workflow = this.#workflow ?? this;
    if (!this.#histories.has(workflow)) this.#histories.set(workflow, new Map());
    const histories = this.#histories.get(workflow);
    if (!histories.has(this.key)) histories.set(this.key, new History());
    return histories.get(this.key);
  }

  async #read(text) {
    const asked = ++this.#asked;
    const answer = await this.#ask("parse", { script: text });
    if (asked === this.#asked && text === this.text) this.#take(answer);
    this.notify();
  }

  #take(answer) {
    this.#asked++; // an answer that is still on its way is about an older text
    this.empty = Boolean(answer.empty);
    this.mistake = answer.error && !answer.empty ? answer : null;
    if (!answer.error) this.board = answer;
    else if (answer.empty) this.board = null;
  }

  /** The server's answer; when it cannot be had, an error without a place. */
  async #ask(path, body) {
    try {
      return await this.#request(`${ROUTE}/${path}`, body);
    } catch (error) {
      return { error: String(error.message ?? error), line: null, column: null };
    }
  }
}
