// The view of the runs: choice of the run, what it has come to, and the strip.

import { element, setAttribute, setText } from "./dom.js";
import { Gantt } from "./gantt.js";
import { Strip } from "./strip.js";
import { Timeline } from "./timeline.js";

const TIMED = ["plan", "fill"]; // kinds of runs that are shown on a timeline, too
let panels = 0; // for ids that are unique in the page

export class Panel {
  #store;
  #graph;
  #text;
  #strip;
  #timeline;
  #gantt;
  #chosen = { run: "", number: null }; // the segment that was pressed on the timeline
  #parts;
  #frame = 0;
  #onChange = () => this.#schedule();
  #spoken = "";

  /** Fill `host`; {store: RunStore, graph: GraphSide, text(key, values), address(path)}. */
  constructor(host, { store, graph, text, address }) {
    this.#store = store;
    this.#graph = graph;
    this.#text = text;
    this.#parts = this.#build(host);
    const actions = { redo: (number) => this.#retake(number, 1), back: (n) => this.#retake(n, -1) };
    this.#strip = new Strip(this.#parts.list, { text, address, actions });
    const onChoose = (number) => this.#choose(number);
    this.#timeline = new Timeline(this.#parts.timeline, { text, address, onChoose });
    this.#gantt = new Gantt(this.#parts.gantt, { text });
    store.addEventListener("change", this.#onChange);
    this.#update();
  }

  close() {
    this.#store.removeEventListener("change", this.#onChange);
    cancelAnimationFrame(this.#frame);
    this.#parts.root.remove();
  }

  #build(host) {
    const t = this.#text;
    const id = `throughline-run-${++panels}`;
    const parts = {
      select: element("select", {
        id,
        class: "throughline-select",
        onchange: (event) => this.#store.show(event.target.value),
      }),
      refresh: element(
        "button",
        {
          type: "button",
          class: "throughline-button throughline-refresh",
          title: t("refresh"),
          "aria-label": t("refresh"),
          onclick: () => this.#store.refresh(),
        },
        element("span", { class: "pi pi-refresh", "aria-hidden": "true" }),
      ),
      summary: element("p", { class: "throughline-summary" }),
      total: element("progress", { class: "throughline-progress" }),
      said: element("p", { class: "throughline-said", tabindex: "0", "aria-label": t("said") }),
      note: element("p", { class: "throughline-note" }),
      problem: element("p", { class: "throughline-problem", role: "alert" }),
      empty: element("p", { class: "throughline-empty" }, t("empty")),
      timeline: element("div", {
        class: "throughline-timeline",
        role: "group",
        "aria-label": t("timeline"),
      }),
      gantt: element("figure", { class: "throughline-gantt" }),
      list: element("ol", { class: "throughline-strip", "aria-label": t("strip") }),
      live: element("p", { class: "throughline-live", role: "status", "aria-live": "polite" }),
    };
    parts.root = element(
      "div",
      {},
      element(
        "div",
        { class: "throughline-choice" },
        element("label", { for: id }, t("run")),
        parts.select,
        parts.refresh,
      ),
      parts.summary,
      parts.total,
      parts.said,
      parts.note,
      parts.problem,
      parts.empty,
      parts.timeline,
      parts.list,
      parts.gantt,
      parts.live,
    );
    host.replaceChildren(parts.root);
    return parts;
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
    const node = this.#graph.sampler(store.shown);
    const segments = store.segments();
    this.#fillSelect();
    this.#fillSummary(segments);
    const obstacle = this.#graph.obstacle(node);
    const t = this.#text;
    setText(this.#parts.note, segments.length && obstacle ? t(obstacle) : "");
    setText(this.#parts.problem, store.problem());
    setText(this.#parts.said, store.saying());
    setAttribute(this.#parts.said, "hidden", !store.saying());
    const nothing = segments.length === 0 && !store.problem();
    setAttribute(this.#parts.empty, "hidden", !nothing);
    setText(this.#parts.empty, store.shown ? t("empty.run", { run: store.shown }) : t("empty"));
    const takes = node ? this.#graph.takes(node) : new Map();
    const last = lastOfChains(segments);
    const kind = store.kind();
    const timed = TIMED.includes(kind) && segments.length > 0;
    const chosen = timed ? this.#open(segments) : null;
    setAttribute(this.#parts.timeline, "hidden", !timed);
    this.#timeline.update(timed ? segments : [], {
      chosen,
      touched: touchedBy(segments, chosen, last),
    });
    this.#gantt.update(store.schedule());
    this.#strip.update(segments, { step: store.step(), obstacle, takes, last, chosen, kind });
    this.#speak(segments);
  }

  /** Number of the segment that is open on the timeline, null where none is. */
  #open(segments) {
    const { run, number } = this.#chosen;
    const there = run === this.#store.shown && segments.some((entry) => entry.number === number);
    return there ? number : null;
  }

  /** Open a segment; pressed a second time it is closed, and all cards are there again. */
  #choose(number) {
    const run = this.#store.shown;
    const same = this.#chosen.run === run && this.#chosen.number === number;
    this.#chosen = { run, number: same ? null : number };
    this.#update();
  }

  #fillSelect() {
    const { runs, shown } = this.#store;
    const names = runs.map((run) => run.name);
    if (shown && !names.includes(shown)) names.unshift(shown);
    const select = this.#parts.select;
    const old = [...select.options].map((option) => option.value);
    if (old.join("\n") !== names.join("\n"))
      select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (select.value !== shown) select.value = shown;
    setAttribute(select, "disabled", names.length === 0);
  }

  #fillSummary(segments) {
    const t = this.#text;
    const made = segments.filter(({ status }) => status === "done" || status === "reused");
    const seconds = made.reduce((sum, segment) => sum + (segment.seconds ?? 0), 0);
    const values = { made: made.length, all: segments.length, seconds: seconds.toFixed(0) };
    setText(this.#parts.summary, segments.length ? t("summary", values) : "");
    const running = segments.some(({ status }) => status === "running");
    setAttribute(this.#parts.total, "hidden", !running);
    setAttribute(this.#parts.total, "max", segments.length || 1);
    setAttribute(this.#parts.total, "value", made.length);
    setAttribute(this.#parts.total, "aria-label", this.#parts.summary.textContent);
  }

  /** Say to screen readers what has changed, once per change and not at every step. */
  #speak(segments) {
    const t = this.#text;
    const talk = segments.find(({ status }) => status === "running" || status === "failed");
    const words = talk && t(`status.${talk.status}`);
    const now = talk ? t("segment.label", { number: talk.number, status: words }) : "";
    if (now !== this.#spoken) setText(this.#parts.live, now);
    this.#spoken = now;
  }

  /** A disabled button keeps its focus and its explanation, and can therefore be pressed. */
  async #retake(number, change) {
    const node = this.#graph.sampler(this.#store.shown);
    const segment = this.#store.segments().find((entry) => entry.number === number);
    const early = segment?.status === "running" || segment?.status === "waiting";
    if (this.#graph.obstacle(node) || early) return;
    const take = Math.max(0, (this.#graph.takes(node).get(number) ?? 0) + change);
    const last = lastOfChains(this.#store.segments()).get(segment?.chain) ?? number;
    this.#store.queued(Array.from({ length: last - number + 1 }, (_, i) => number + i));
    const accepted = await this.#graph.retake(node, number, take);
    if (!accepted) this.#store.unqueue();
  }
}

/** Numbers of the segments that are made anew when `chosen` is; none where none is open. */
function touchedBy(segments, chosen, last) {
  const segment = segments.find(({ number }) => number === chosen);
  if (!segment) return new Set();
  const end = last.get(segment.chain) ?? chosen;
  return new Set(segments.map(({ number }) => number).filter((n) => n >= chosen && n <= end));
}

/**
 * Number of the last segment of each chain: what a redone segment takes with it ends there. Segments
 * that fill a plan have no chain, since each stands alone.
 */
function lastOfChains(segments) {
  const known = segments.filter(({ chain }) => Number.isInteger(chain));
  return new Map(known.map(({ chain, number }) => [chain, number]));
}
