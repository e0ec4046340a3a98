// The strip: one card per segment. Cards are kept and updated in place, so that focus stays.

import { element, setAttribute, setText } from "./dom.js";

const SYMBOLS = {
  done: "✓",
  reused: "↺",
  running: "▶",
  waiting: "…",
  interrupted: "‖",
  failed: "✕",
  changed: "≠",
  damaged: "!",
};

// What redoing a segment costs beside those that continue it, by the kind of its run.
const COSTS = { plan: "redo.fills", fill: "redo.alone" };

export class Strip {
  #list;
  #cards = new Map(); // by number
  #text;
  #address;
  #actions;

  /** `actions`: {redo(number), back(number)}; `address(path)` gives the URL of a route. */
  constructor(list, { text, address, actions }) {
    this.#list = list;
    this.#text = text;
    this.#address = address;
    this.#actions = actions;
  }

  /**
   * Show `segments`; `context`: {step, takes by number, last number by chain, obstacle, chosen,
   * kind}. `obstacle` is the key of the text that says why nothing can be redone, "" when it can;
   * `chosen` the number of the only segment to be shown, or null for all; `kind` the run's.
   */
  update(segments, context) {
    const wanted = new Set(segments.map((segment) => segment.number));
    for (const [number, card] of this.#cards)
      if (!wanted.has(number)) {
        card.root.remove();
        this.#cards.delete(number);
      }
    for (const segment of segments) {
      if (!this.#cards.has(segment.number)) this.#add(segment.number);
      this.#fill(this.#cards.get(segment.number), segment, context);
    }
  }

  #add(number) {
    const t = this.#text;
    const button = (name) =>
      element("button", {
        type: "button",
        class: "throughline-button",
        dataset: { action: name },
        onclick: () => this.#actions[name](number),
      });
    const card = {
      picture: element("img", { class: "throughline-picture", alt: "", loading: "lazy" }),
      status: element("span", { class: "throughline-status" }),
      shot: element("span", { class: "throughline-shot" }),
      prompt: element("p", { class: "throughline-prompt" }),
      reason: element("p", { class: "throughline-reason" }),
      facts: element("p", { class: "throughline-facts" }),
      cost: element("p", { class: "throughline-cost" }),
      clip: element("video", {
        class: "throughline-clip",
        controls: true,
        loop: true,
        playsinline: true,
        preload: "none",
      }),
      progress: element("progress", { class: "throughline-progress" }),
      redo: button("redo"),
      back: button("back"),
    };
    setText(card.redo, t("redo"));
    setText(card.back, t("back"));
    const label = element("span", { class: "throughline-number" }, String(number));
    card.root = element(
      "li",
      { class: "throughline-card", dataset: { segment: number } },
      element("div", { class: "throughline-thumbnail" }, card.picture, label),
      element(
        "div",
        { class: "throughline-text" },
        element("div", { class: "throughline-title" }, card.shot, card.status),
        card.prompt,
        card.progress,
        card.reason,
        card.facts,
        card.cost,
        card.clip,
        element("div", { class: "throughline-actions" }, card.redo, card.back),
      ),
    );
    this.#cards.set(number, card);
    const after = [...this.#cards.keys()].filter((other) => other > number).sort((a, b) => a - b);
    this.#list.insertBefore(card.root, after.length ? this.#cards.get(after[0]).root : null);
  }

  #fill(card, segment, context) {
    const t = this.#text;
    const { number, status } = segment;
    const word = t(`status.${status}`);
    setAttribute(card.root, "data-status", status);
    setAttribute(card.root, "hidden", context.chosen !== null && context.chosen !== number);
    setAttribute(card.root, "data-open", context.chosen === number);
    setAttribute(card.root, "aria-label", t("segment.label", { number, status: word }));
    setText(card.status, `${SYMBOLS[status] ?? ""} ${word}`.trim());
    setText(card.shot, segment.shot_id ? t("segment.shot", { shot: segment.shot_id }) : "");
    setText(card.prompt, segment.prompt ?? "");
    setAttribute(card.prompt, "title", segment.prompt);
    setText(card.reason, this.#reason(segment));
    setText(card.facts, this.#facts(segment).join(" · "));
    this.#fillPicture(card, segment);
    this.#fillClip(card, segment, context.chosen === number);
    fillProgress(card.progress, status === "running" ? context.step : null, t("status.running"));
    this.#fillActions(card, segment, context);
  }

  #reason(segment) {
    if (isMade(segment) || !segment.reason) return "";
    return segment.reason === "queued" ? this.#text("queued") : segment.reason;
  }

  #facts(segment) {
    const t = this.#text;
    const facts = [];
    if (isMade(segment) && segment.seconds != null)
      facts.push(t("segment.seconds", { seconds: segment.seconds.toFixed(1) }));
    if (segment.seed !== undefined) facts.push(t("segment.seed", { seed: segment.seed }));
    if (segment.take !== undefined)
      facts.push(segment.take ? t("segment.take", { take: segment.take }) : t("segment.first"));
    return facts;
  }

  #fillPicture(card, segment) {
    const address = segment.preview ? this.#address(segment.preview) : null;
    setAttribute(card.picture, "src", address);
    setAttribute(card.picture, "hidden", address === null);
    setAttribute(card.picture, "alt", address ? (segment.prompt ?? "") : "");
  }

  /** Of the opened segment alone: what it adds to the film, where that was written. */
  #fillClip({ clip }, segment, open) {
    const address = open && segment.clip ? this.#address(segment.clip) : null;
    setAttribute(clip, "hidden", address === null);
    setAttribute(clip, "src", address);
    setAttribute(clip, "poster", address && segment.preview && this.#address(segment.preview));
    setAttribute(clip, "aria-label", this.#text("segment.clip", { number: segment.number }));
  }

  #fillActions(card, segment, context) {
    const t = this.#text;
    const { number, status } = segment;
    const early = status === "running" || status === "waiting" ? "redo.early" : "";
    const obstacle = context.obstacle || early;
    const now = context.takes.get(number) ?? 0;
    const last = context.last.get(segment.chain) ?? number;
    const numbers = spanned(number + 1, last);
    const followers = last > number ? t("redo.followers", { numbers }) : "";
    const cost = [followers, COSTS[context.kind] && t(COSTS[context.kind])].join(" ").trim();
    // aria-disabled keeps the button in reach of the keyboard and of its explanation.
    setAttribute(card.redo, "aria-disabled", Boolean(obstacle) && "true");
    setAttribute(card.back, "aria-disabled", Boolean(obstacle) && "true");
    setAttribute(card.back, "hidden", now === 0);
    const redo = obstacle ? t(obstacle) : `${t("redo.title", { number, take: now + 1 })} ${cost}`;
    setText(card.cost, context.chosen === number ? redo.trim() : "");
    const back = obstacle ? t(obstacle) : t("back.title", { number, take: now - 1 });
    for (const [button, name, title] of [
      [card.redo, "redo", redo],
      [card.back, "back", back],
    ]) {
      setAttribute(button, "title", title.trim());
      setAttribute(button, "aria-label", `${t(name)} ${number}: ${title.trim()}`);
    }
  }
}

function isMade({ status }) {
  return status === "done" || status === "reused";
}

function spanned(first, last) {
  return first === last ? String(first) : `${first}–${last}`;
}

function fillProgress(bar, step, label) {
  setAttribute(bar, "hidden", step === null);
  if (step === null) return;
  setAttribute(bar, "max", step.steps);
  setAttribute(bar, "value", step.step);
  setAttribute(bar, "aria-label", `${label} ${step.step} / ${step.steps}`);
}
