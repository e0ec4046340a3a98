// Where a shot goes when it is moved by keys or buttons, or dropped between two cards.

const KIND = "application/x-throughline-shot";

/**
 * One step up (-1) or down (1): {edit, index}, or null at the end. Across the border of a scene the
 * shot keeps its place among the shots and changes the scene.
 */
export function neighbour(board, index, change) {
  const shot = board.shots[index];
  const other = board.shots[index + change];
  if (other && other.scene === shot.scene)
    return { edit: { [change < 0 ? "before" : "after"]: other.id }, index: index + change };
  const order = board.scenes.map((scene) => scene.number);
  const scene = order[order.indexOf(shot.scene) + change];
  if (scene === undefined) return null;
  if (change > 0 && other?.scene === scene) return { edit: { before: other.id }, index };
  return { edit: { scene }, index };
}

export class Moving {
  #list;
  #ask;
  #card = null;
  #mark = null;

  /** `ask`: {card(root), scene(root), board(), drop(card, place)}. */
  constructor(list, ask) {
    this.#list = list;
    this.#ask = ask;
    list.addEventListener("dragover", (event) => this.#over(event));
    list.addEventListener("dragleave", (event) => this.#leave(event));
    list.addEventListener("drop", (event) => this.#drop(event));
  }

  start(card, event) {
    this.#card = card;
    event.dataTransfer.setData(KIND, card.shot.id);
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setDragImage(card.root, 12, 12);
    card.root.classList.add("throughline-dragged");
  }

  end() {
    this.#card?.root.classList.remove("throughline-dragged");
    this.#card = null;
    this.#point(null);
  }

  #over(event) {
    if (!this.#card) return;
    event.preventDefault();
    event.stopPropagation();
    event.dataTransfer.dropEffect = "move";
    const found = this.#find(event);
    this.#point(found?.root === this.#card.root ? null : found);
  }

  #leave(event) {
    if (!this.#list.contains(event.relatedTarget)) this.#point(null);
  }

  #drop(event) {
    if (!this.#card) return;
    event.preventDefault();
    event.stopPropagation();
    const card = this.#card;
    const found = this.#find(event);
    this.end();
    const place = found && this.#place(card, found);
    if (place) this.#ask.drop(card, place);
  }

  /** The line of the list under the pointer and whether the shot goes in front of it. */
  #find(event) {
    const root = event.target.closest?.("li.throughline-shot-card, li.throughline-scene");
    if (!root || !this.#list.contains(root)) return null;
    const box = root.getBoundingClientRect();
    const scene = root.classList.contains("throughline-scene");
    return { root, before: !scene && event.clientY < box.top + box.height / 2 };
  }

  #place(card, { root, before }) {
    const { shots } = this.#ask.board();
    const own = shots.findIndex((shot) => shot.id === card.shot.id);
    const target = this.#ask.card(root);
    if (!target) return this.#intoScene(this.#ask.scene(root), shots, own);
    const at = shots.findIndex((shot) => shot.id === target.shot.id);
    if (at === own) return null;
    const index = at + (before ? 0 : 1) - (own < at ? 1 : 0);
    return { edit: { [before ? "before" : "after"]: target.shot.id }, index };
  }

  /** Dropped on a scene's line: in front of its first shot, or into it when it has none. */
  #intoScene(card, shots, own) {
    if (!card) return null;
    const { number } = card.scene;
    const first = shots.findIndex((shot) => shot.scene === number);
    if (first === own) return null;
    if (first >= 0) {
      return { edit: { before: shots[first].id }, index: first - (own < first ? 1 : 0) };
    }
    const order = this.#ask.board().scenes.map((scene) => scene.number);
    const earlier = (shot) => order.indexOf(shot.scene) < order.indexOf(number);
    const above = shots.filter((shot, at) => at !== own && earlier(shot));
    return { edit: { scene: number }, index: above.length };
  }

  #point(found) {
    const now = found && `${found.before}`;
    if (this.#mark && (this.#mark.root !== found?.root || this.#mark.now !== now))
      this.#mark.root.removeAttribute("data-drop");
    this.#mark = found && { root: found.root, now };
    if (found) found.root.setAttribute("data-drop", found.before ? "before" : "after");
  }
}
