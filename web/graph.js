// The graph's side of the runs: which node writes a run, and its widgets `run_name` and `retakes`.

import {
  allNodes,
  isLinked,
  rootGraph,
  selectedNodes,
  setWidget,
  widget,
  widgetValue,
} from "./nodes.js";

const SAMPLERS = [
  "ThroughlineARSegmentSampler",
  "ThroughlineKeyframePlanner",
  "ThroughlineMacroPlan",
  "ThroughlineMicroPlan",
  "ThroughlineMilliVidRollout",
  "ThroughlinePopulateSegments",
];
const SCHEDULE = "ThroughlineAdaptiveSchedule"; // its first input comes from Populate segments

export class GraphSide {
  selected = null; // the sampler node that is selected
  #app;
  #lastSelection = "";
  #lastWidgets = "";

  constructor(app) {
    this.#app = app;
  }

  get selectedRun() {
    return this.selected ? widgetValue(this.selected, "run_name") : "";
  }

  /** Note which sampler is selected. True when it is another one, or its run has another name. */
  lookAtSelection() {
    this.selected = selectedNodes(this.#app).find(isSampler) ?? null;
    const now = this.selected ? `${this.selected.id} ${this.selectedRun}` : "";
    const changed = now !== this.#lastSelection;
    this.#lastSelection = now;
    return changed;
  }

  /** True when what the buttons depend on has changed: the sampler of the run, or its widgets. */
  lookAtWidgets(name) {
    const node = this.sampler(name);
    const retakes = node && widgetValue(node, "retakes");
    const now = `${node?.id} ${retakes} ${this.obstacle(node)}`;
    const changed = now !== this.#lastWidgets;
    this.#lastWidgets = now;
    return changed;
  }

  /** The sampler that writes the run `name`: the selected one if it does, else the first. */
  sampler(name) {
    if (this.selected && this.selectedRun === name) return this.selected;
    for (const node of allNodes(rootGraph(this.#app)))
      if (isSampler(node) && widgetValue(node, "run_name") === name) return node;
    return null;
  }

  /** Name of the run that the node with this id writes, "" where the id is none's. A schedule
   * writes the run of the node that left its work to it. */
  runOf(id) {
    const own = String(id).split(":").pop(); // inside subgraphs ids read like "5:3"
    for (const node of allNodes(rootGraph(this.#app))) {
      if (String(node.id) !== own) continue;
      const writer = node.type === SCHEDULE ? node.getInputNode?.(0) : node;
      if (writer && isSampler(writer)) return widgetValue(writer, "run_name");
    }
    return "";
  }

  /** Why `node` cannot take retakes: the key of a text, "" when it can. */
  obstacle(node) {
    if (!node) return "redo.no_sampler";
    if (!widget(node, "retakes") || isLinked(node, "retakes")) return "redo.linked";
    const control = widget(node, "seed")?.linkedWidgets?.[0]?.value; // "control after generate"
    if (control && control !== "fixed" && !isLinked(node, "seed")) return "redo.seed_changes";
    return "";
  }

  /** The takes that `node` asks for, by segment (1-based); segments without one are in take 0. */
  takes(node) {
    return parseRetakes(widgetValue(node, "retakes"));
  }

  /**
   * Ask for another take of a segment and queue the graph. False when the server refused it; the
   * widget then has its old text.
   */
  async retake(node, number, take) {
    const before = widgetValue(node, "retakes");
    const retakes = parseRetakes(before).set(number, take);
    setWidget(this.#app, node, "retakes", formatRetakes(retakes));
    const accepted = await this.#app.queuePrompt(0);
    if (!accepted) setWidget(this.#app, node, "retakes", before);
    return accepted;
  }
}

function isSampler(node) {
  return SAMPLERS.includes(node.type);
}

/** "4:1, 7:2" as a map of segment (1-based) to take; what does not read like that is left out. */
export function parseRetakes(text) {
  const retakes = new Map();
  for (const part of String(text ?? "").split(",")) {
    const match = /^\s*(\d{1,6})\s*:\s*(\d{1,6})\s*$/.exec(part);
    if (match) retakes.set(Number(match[1]), Number(match[2]));
  }
  return retakes;
}

/** The text of the widget `retakes`; first takes need no entry. */
export function formatRetakes(retakes) {
  return [...retakes]
    .filter(([, take]) => take > 0)
    .sort(([a], [b]) => a - b)
    .map(([number, take]) => `${number}:${take}`)
    .join(", ");
}
