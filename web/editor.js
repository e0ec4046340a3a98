// The view of the storyboard: the script's shots as cards, in order, which read and write its text.

import { Cast } from "./cast.js";
import { allow, iconButton } from "./controls.js";
import { element, setAttribute, setText } from "./dom.js";
import { Moving, neighbour } from "./moving.js";
import { SceneCard } from "./scene_card.js";
import { ShotCard, sizeSuggestions } from "./shot_card.js";

const GROWS = CSS.supports("field-sizing", "content");
let editors = 0; // for ids that are unique in the page

export class Editor {
  #store;
  #text;
  #picture;
  #parts;
  #cast;
  #cards = [];
  #scenes = [];
  #moving;
  #frame = 0;
  #busy = false;
  #resized;
  #onChange = () => this.#schedule();

  /** Fill `host`; {store: StoryboardStore, text(key, values), address(path)}. */
  constructor(host, { store, text, address }) {
    this.#store = store;
    this.#text = text;
    this.#picture = address;
    this.#cast = new Cast({ text, edit: (edit) => this.#change(edit), picture: address });
    this.#parts = this.#build(host);
    this.#moving = new Moving(this.#parts.list, {
      card: (root) => this.#cards.find((card) => card.root === root),
      scene: (root) => this.#scenes.find((scene) => scene.root === root),
      board: () => store.board,
      drop: (card, place) => this.#move(card, place),
    });
    this.#resized = new ResizeObserver(() => this.#fitBoxes());
    this.#resized.observe(this.#parts.root);
    store.addEventListener("change", this.#onChange);
    addEventListener("keydown", onlyTheGraphs, true);
    store.look();
    this.#update();
  }

  close() {
    this.#store.removeEventListener("change", this.#onChange);
    removeEventListener("keydown", onlyTheGraphs, true);
    this.#resized.disconnect();
    cancelAnimationFrame(this.#frame);
    this.#parts.root.remove();
  }

  #build(host) {
    const t = this.#text;
    const id = `throughline-storyboard-${++editors}`;
    const store = this.#store;
    const parts = {
      choice: element("select", {
        id,
        class: "throughline-select",
        onchange: (event) => store.choose(event.target.value),
      }),
      undo: iconButton("pi-undo", t("script.undo"), () => this.#step("undo")),
      redo: iconButton("pi-undo", t("script.redo"), () => this.#step("redo")),
      summary: element("p", { class: "throughline-summary" }),
      toText: iconButton("pi-align-left", t("to_text"), () => this.#jump(1)),
      problem: element("p", { class: "throughline-problem", role: "alert" }),
      jump: element(
        "button",
        { type: "button", class: "throughline-button", onclick: () => this.#jumpToMistake() },
        t("mistake.jump"),
      ),
      convert: element(
        "button",
        {
          type: "button",
          class: "throughline-button",
          onclick: () => this.#change({ edit: "as_script" }),
        },
        t("convert"),
      ),
      refusal: element("p", { class: "throughline-problem", role: "alert" }),
      note: element("p", { class: "throughline-note" }),
      list: element("ol", { class: "throughline-shots", "aria-label": t("shots") }),
      warnings: element("ul", { class: "throughline-warnings", "aria-label": t("warnings") }),
      addShot: this.#wordButton("shot.append", () => this.#append()),
      addScene: this.#wordButton("scene.append", () => this.#addScene()),
      live: element("p", { class: "throughline-live", role: "status", "aria-live": "polite" }),
      places: element("datalist", { id: "throughline-places" }),
    };
    parts.redo.classList.add("throughline-mirrored");
    parts.chooser = element(
      "div",
      { class: "throughline-choice" },
      element("label", { for: id }, t("script")),
      parts.choice,
    );
    const bar = element(
      "div",
      { class: "throughline-tools-row", role: "toolbar", "aria-label": t("toolbar") },
      parts.undo,
      parts.redo,
      parts.summary,
      parts.toText,
    );
    const mistake = element("div", { class: "throughline-said-row" }, parts.problem, parts.jump);
    parts.bar = element("div", { class: "throughline-bar" }, bar, mistake, parts.refusal);
    parts.adding = element("div", { class: "throughline-actions" }, parts.addShot, parts.addScene);
    parts.body = element("div", {}, this.#cast.root, parts.list, parts.adding, parts.warnings);
    parts.root = element(
      "div",
      { class: "throughline-editor" },
      parts.chooser,
      parts.bar,
      element("div", { class: "throughline-said-row" }, parts.note, parts.convert),
      parts.body,
      parts.live,
      parts.places,
      sizeSuggestions(t),
    );
    parts.root.addEventListener("input", (event) => fit(event.target));
    parts.root.addEventListener("toggle", () => this.#fitBoxes(), true);
    parts.root.addEventListener("throughline-newer", () => this.#say(t("refused.newer")));
    host.replaceChildren(parts.root);
    return parts;
  }

  #wordButton(key, onclick) {
    return element(
      "button",
      { type: "button", class: "throughline-button throughline-add", onclick },
      element("span", { class: "pi pi-plus", "aria-hidden": "true" }),
      this.#text(key),
    );
  }

  #schedule() {
    if (!this.#frame)
      this.#frame = requestAnimationFrame(() => {
        this.#frame = 0;
        this.#update();
      });
  }

  #update() {
    const store = this.#store;
    const parts = this.#parts;
    this.#fillChoice();
    this.#fillMessages();
    const { board, editable } = store;
    const mayAdd = editable || store.empty;
    setAttribute(parts.bar, "hidden", !store.key || store.linked);
    allow(parts.undo, store.canUndo);
    allow(parts.redo, store.canRedo);
    setText(parts.summary, board ? this.#summary(board) : "");
    parts.body.inert = this.#busy || !mayAdd;
    setAttribute(parts.body, "data-stale", Boolean(store.mistake));
    setAttribute(this.#cast.root, "hidden", !board);
    setAttribute(parts.adding, "hidden", !store.key || store.linked);
    setAttribute(parts.addScene, "hidden", !board);
    if (board) this.#cast.show(board, editable);
    this.#fillList(board, editable);
    this.#fillWarnings(board);
    this.#fitBoxes();
  }

  #fillChoice() {
    const { choices, key } = this.#store;
    const select = this.#parts.choice;
    const now = JSON.stringify(choices);
    if (select.dataset.shown !== now) {
      select.dataset.shown = now;
      const option = (one) => element("option", { value: one.key }, one.title);
      select.replaceChildren(...choices.map(option));
    }
    if (select.value !== key) select.value = key;
    setAttribute(this.#parts.chooser, "hidden", choices.length < 2);
  }

  #fillMessages() {
    const t = this.#text;
    const store = this.#store;
    const { mistake, refusal } = store;
    const place = mistake?.line ? t("mistake", mistake) : (mistake?.error ?? "");
    setText(this.#parts.problem, place);
    setAttribute(this.#parts.jump, "hidden", !mistake?.line);
    setText(this.#parts.refusal, refusal === "newer" ? t("refused.newer") : refusal);
    setText(this.#parts.note, this.#note());
    setAttribute(this.#parts.convert, "hidden", !store.foreign);
  }

  #note() {
    const t = this.#text;
    const store = this.#store;
    if (!store.key) return t("none");
    if (store.linked) return t("linked");
    if (store.empty) return t("empty.script");
    return store.foreign ? t("foreign", { form: store.foreign }) : "";
  }

  #summary(board) {
    const lengths = board.shots.map((shot) => shot.seconds);
    const seconds = lengths.reduce((sum, length) => sum + (length ?? 0), 0);
    const values = { count: lengths.length, seconds: Number(seconds.toFixed(2)) };
    if (!seconds) return this.#text("summary.shots", values);
    return this.#text(lengths.includes(null) ? "summary.more" : "summary.all", values);
  }

  #fillList(board, editable) {
    const shots = board?.shots ?? [];
    const scenes = (board?.scenes ?? []).filter(
      (scene) => scene.line !== null || scene.location || board.scenes.length > 1,
    );
    while (this.#cards.length > shots.length) this.#cards.pop().root.remove();
    while (this.#cards.length < shots.length) this.#cards.push(this.#newCard());
    while (this.#scenes.length > scenes.length) this.#scenes.pop().root.remove();
    while (this.#scenes.length < scenes.length) this.#scenes.push(this.#newScene());
    shots.forEach((shot, index) =>
      this.#cards[index].show(shot, {
        board,
        warnings: board.warnings.filter((warning) => warning.line === shot.line && shot.line),
        first: !neighbour(board, index, -1),
        last: !neighbour(board, index, 1),
        editable,
      }),
    );
    scenes.forEach((scene, index) => this.#scenes[index].show(scene, editable));
    this.#order(shots, scenes);
    const locations = board?.locations ?? [];
    const now = locations.map((one) => one.name).join("\n");
    if (this.#parts.places.dataset.shown !== now) {
      this.#parts.places.dataset.shown = now;
      const option = (one) => element("option", { value: one.name });
      this.#parts.places.replaceChildren(...locations.map(option));
    }
  }

  /** Put scene lines and cards in their order; cards keep theirs, so no focused one is moved. */
  #order(shots, scenes) {
    const wanted = [];
    const headings = new Map(scenes.map((scene, index) => [scene.number, this.#scenes[index]]));
    const scenesInOrder = this.#store.board?.scenes ?? [];
    for (const scene of scenesInOrder) {
      if (headings.has(scene.number)) wanted.push(headings.get(scene.number).root);
      shots.forEach((shot, index) => {
        if (shot.scene === scene.number) wanted.push(this.#cards[index].root);
      });
    }
    const cards = new Set(this.#cards.map((card) => card.root));
    const { list } = this.#parts;
    wanted.reverse().forEach((root, index) => {
      const next = wanted[index - 1] ?? null;
      const there = root.parentNode === list;
      if (!there || (!cards.has(root) && root.nextSibling !== next)) list.insertBefore(root, next);
    });
  }

  #fillWarnings(board) {
    const lines = new Set((board?.shots ?? []).map((shot) => shot.line));
    const others = (board?.warnings ?? []).filter((one) => !one.line || !lines.has(one.line));
    const now = JSON.stringify(others);
    if (this.#parts.warnings.dataset.shown === now) return;
    this.#parts.warnings.dataset.shown = now;
    const line = (one) => element("li", { class: "throughline-warning" }, one.text);
    this.#parts.warnings.replaceChildren(...others.map(line));
  }

  #newCard() {
    return new ShotCard({
      text: this.#text,
      picture: this.#picture,
      actions: {
        change: (card, field, value) =>
          this.#change({ edit: "change_shot", shot: card.shot.id, field, value }),
        tag: (card, who, tagged) =>
          this.#change({ edit: "tag_character", shot: card.shot.id, name: who, tagged }),
        move: (card, change) => this.#moveBy(card, change),
        add: (card) => this.#addAfter(card),
        duplicate: (card) => this.#duplicate(card),
        remove: (card) => this.#remove(card),
        split: (card) => this.#restructure({ edit: "insert_scene", before: card.shot.id }),
        jump: (card) => this.#jump(card.shot.line),
        drag: (card, event) => this.#moving.start(card, event),
        drop: () => this.#moving.end(),
      },
    });
  }

  #newScene() {
    return new SceneCard({
      text: this.#text,
      actions: {
        place: (scene, place) =>
          this.#change({ edit: "change_place", scene: scene.number, place }),
        add: (scene) => this.#insert({ scene: scene.number }, this.#afterScene(scene.number)),
        remove: (scene) => this.#restructure({ edit: "remove_scene", scene: scene.number }),
      },
    });
  }

  /** An edit that keeps the order of the shots. */
  async #change(edit) {
    const done = await this.#store.edit(edit);
    this.#update();
    return done;
  }

  /**
   * An edit that changes which shot is which. Nothing can be typed until it is done; then `focus`
   * puts the focus where it belongs.
   */
  async #restructure(edit, focus = () => {}, said = "") {
    if (this.#busy) return;
    const before = document.activeElement;
    if (this.#parts.root.contains(before)) before.blur(); // what was typed is saved first
    this.#busy = true;
    this.#parts.body.inert = true;
    const done = await this.#store.edit(edit);
    this.#busy = false;
    this.#update();
    if (done) focus();
    else if (before?.isConnected) before.focus({ preventScroll: true });
    if (done && said) this.#say(said);
  }

  #moveBy(card, change) {
    const found = neighbour(this.#store.board, this.#cards.indexOf(card), change);
    if (found) this.#move(card, found);
  }

  /** `place`: {edit: where the shot goes, index: its place among the shots then}. */
  #move(card, { edit, index }) {
    const control = card.focused();
    const shot = card.shot.id;
    this.#restructure({ edit: "move_shot", shot, ...edit }, () => {
      const moved = this.#cards[index];
      moved.focus(control);
      this.#say(this.#text("shot.moved", { shot, now: moved.shot.id }));
    });
  }

  #addAfter(card) {
    this.#insert({ after: card.shot.id }, this.#cards.indexOf(card) + 1);
  }

  #append() {
    this.#insert({}, this.#cards.length);
  }

  #insert(place, index) {
    const caption = this.#text("shot.new");
    this.#restructure({ edit: "insert_shot", caption, ...place }, () =>
      this.#cards[index]?.focus("caption", true),
    );
  }

  /** How many shots stand above the end of a scene. */
  #afterScene(number) {
    const { scenes, shots } = this.#store.board;
    const order = scenes.map((scene) => scene.number);
    const last = order.indexOf(number);
    return shots.filter((shot) => order.indexOf(shot.scene) <= last).length;
  }

  #duplicate(card) {
    const index = this.#cards.indexOf(card);
    this.#restructure({ edit: "duplicate_shot", shot: card.shot.id }, () =>
      this.#cards[index + 1].focus("caption"),
    );
  }

  #remove(card) {
    const index = this.#cards.indexOf(card);
    const shot = card.shot.id;
    this.#restructure(
      { edit: "delete_shot", shot },
      () => this.#cards[Math.min(index, this.#cards.length - 1)]?.focus("remove"),
      this.#text("shot.removed", { shot }),
    );
  }

  #addScene() {
    this.#restructure({ edit: "insert_scene" }, () => this.#scenes.at(-1)?.focus());
  }

  async #step(which) {
    if (!(which === "undo" ? this.#store.canUndo : this.#store.canRedo)) return;
    const done = await this.#store[which]();
    this.#update();
    if (done) this.#say(this.#text(`${which}.done`));
  }

  #jump(line, column) {
    if (!this.#store.jump(line, column)) this.#say(this.#text("jump.nowhere"));
  }

  #jumpToMistake() {
    const { mistake } = this.#store;
    if (mistake?.line) this.#jump(mistake.line, mistake.column);
  }

  #say(words) {
    setText(this.#parts.live, words);
  }

  #fitBoxes() {
    if (!GROWS) for (const box of this.#parts.root.querySelectorAll("textarea")) fit(box);
  }
}

/**
 * Ctrl+Z with the focus outside of fields is the graph's: the browser must not take back, too, what
 * was typed last into one of the cards and is saved long since.
 */
function onlyTheGraphs(event) {
  const undo = (event.ctrlKey || event.metaKey) && ["z", "y"].includes(event.key.toLowerCase());
  const typing = event.target.closest?.("input, textarea, [contenteditable]");
  if (undo && !typing) event.preventDefault();
}

/** Make a box of text as high as its text, where the browser does not do so by itself. */
function fit(box) {
  if (GROWS || box.tagName !== "TEXTAREA") return;
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}
