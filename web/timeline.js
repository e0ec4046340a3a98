// The timeline of a plan or of its fills: blocks side by side, as long as the segments are.

import { element, setAttribute } from "./dom.js";

const LATENT_FRAME_PX = 6; // a segment of Wan, 21 latent frames, is 126 wide: three small pictures

export class Timeline {
  #root;
  #blocks = new Map(); // by number
  #text;
  #address;
  #onChoose;

  /** `onChoose(number)` hears which segment was pressed; `address(path)`: the URL of a route. */
  constructor(root, { text, address, onChoose }) {
    this.#root = root;
    this.#text = text;
    this.#address = address;
    this.#onChoose = onChoose;
    root.addEventListener("keydown", (event) => this.#key(event));
  }

  /**
   * Show `segments`; `chosen` is the number of the one that is open, or null, and `touched` are the
   * numbers of those that are made anew when it is.
   */
  update(segments, { chosen, touched }) {
    const wanted = new Set(segments.map((segment) => segment.number));
    for (const [number, block] of this.#blocks)
      if (!wanted.has(number)) {
        block.root.remove();
        this.#blocks.delete(number);
      }
    const reachable = chosen ?? segments[0]?.number;
    for (const segment of segments) {
      if (!this.#blocks.has(segment.number)) this.#add(segment.number);
      const block = this.#blocks.get(segment.number);
      this.#fill(block, segment);
      setAttribute(block.root, "aria-pressed", segment.number === chosen ? "true" : "false");
      setAttribute(block.root, "data-touched", touched.has(segment.number));
      block.root.tabIndex = segment.number === reachable ? 0 : -1;
    }
  }

  #add(number) {
    const picture = element("img", {
      class: "throughline-block-picture",
      alt: "",
      loading: "lazy",
    });
    const label = element("span", { class: "throughline-number" }, String(number));
    const root = element(
      "button",
      {
        type: "button",
        class: "throughline-block",
        dataset: { block: number },
        onclick: () => this.#onChoose(number),
      },
      picture,
      label,
    );
    this.#blocks.set(number, { root, picture });
    const after = [...this.#blocks.keys()].filter((other) => other > number);
    const next = after.length ? this.#blocks.get(Math.min(...after)).root : null;
    this.#root.insertBefore(root, next);
  }

  #fill({ root, picture }, segment) {
    const t = this.#text;
    const { number, status, continues, length } = segment;
    const width = `${(length ?? 1) * LATENT_FRAME_PX}px`;
    if (root.style.width !== width) root.style.width = width;
    setAttribute(root, "data-status", status);
    setAttribute(root, "data-join", continues ? "continue" : "cut");
    const joined = t(continues ? "timeline.continues" : "timeline.cut");
    const said = `${t("segment.label", { number, status: t(`status.${status}`) })}, ${joined}`;
    setAttribute(root, "aria-label", said);
    setAttribute(root, "title", segment.prompt ? `${said}\n${segment.prompt}` : said);
    const address = segment.preview ? this.#address(segment.preview) : null;
    setAttribute(picture, "src", address);
    setAttribute(picture, "hidden", address === null);
  }

  /** Left and right go from segment to segment, as in any timeline. */
  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const roots = [...this.#root.children];
    const next = roots[roots.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    for (const root of roots) root.tabIndex = root === next ? 0 : -1;
    next.focus();
  }
}
