// The graph's side of the storyboard: which node's script is shown, its text, and the way there.

import {
  allNodes,
  isLinked,
  rootGraph,
  selectedNodes,
  setWidget,
  widget,
  widgetValue,
} from "./nodes.js";

const WIDGET = "script";
const STORYBOARD = "ThroughlineStoryboard";
const OURS = /^Throughline/;
const ENDS_OF_LINES = /\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]/g; // as Python's splitlines

export class ScriptSide {
  #app;
  #wanted = ""; // key of the node that was chosen last
  #selected = "";

  constructor(app) {
    this.#app = app;
  }

  /**
   * The script that is shown: {key, node, text, linked, choices}, `key` "" when the graph has none.
   * `choices` are [{key, title}] of every node with a script of its own.
   */
  look() {
    const nodes = [...allNodes(rootGraph(this.#app))].filter(hasScript);
    const selected = selectedNodes(this.#app).find(hasScript);
    const now = selected ? keyOf(selected) : "";
    if (now && now !== this.#selected) this.#wanted = now;
    this.#selected = now;
    const node =
      nodes.find((one) => keyOf(one) === this.#wanted) ??
      nodes.find((one) => one.type === STORYBOARD) ??
      nodes[0];
    if (!node) return { key: "", node: null, text: "", linked: false, choices: [] };
    return {
      key: keyOf(node),
      node,
      text: String(widgetValue(node, WIDGET) ?? ""),
      linked: isLinked(node, WIDGET),
      choices: nodes.map((one) => ({ key: keyOf(one), title: `${one.title} (${one.id})` })),
    };
  }

  /** Show another node's script. */
  choose(key) {
    this.#wanted = key;
  }

  /** Whether a storyboard is what the graph is about: one is selected, or there is one. */
  hasStoryboard() {
    const is = (node) => node.type === STORYBOARD;
    const selected = selectedNodes(this.#app).filter((node) => OURS.test(node.type));
    return selected.length ? selected.some(is) : [...allNodes(rootGraph(this.#app))].some(is);
  }

  /** What the texts of a node belong to: another object for each open workflow. */
  get workflow() {
    return this.#app.extensionManager?.workflow?.activeWorkflow ?? this.#app;
  }

  /** Give a node another script. False, and nothing done, when its text is no longer `before`. */
  write(key, before, text) {
    const now = this.look();
    if (now.key !== key || now.text !== before || now.linked) return false;
    setWidget(this.#app, now.node, WIDGET, text);
    return true;
  }

  /** Show the node and put the cursor on a line (from 1) of its text; false without a text box. */
  jump(line, column = 1) {
    const { node, text } = this.look();
    if (!node) return false;
    if (node.graph === this.#app.canvas?.graph) {
      this.#app.canvas.selectNode?.(node);
      this.#app.canvas.centerOnNode?.(node);
    }
    const box = textBox(node, text);
    if (!box) return false;
    const [start, end] = lineSpan(text, line);
    const shorter = (text.slice(0, start).match(/\r\n/g) ?? []).length; // the box has one sign less
    const signs = [...text.slice(start, end)]; // columns count signs, a page counts halves of some
    const offset = signs.slice(0, column - 1).join("").length;
    box.focus({ preventScroll: true });
    box.setSelectionRange(start - shorter + offset, end - shorter);
    const height = parseFloat(getComputedStyle(box).lineHeight) || 16;
    box.scrollTop = Math.max(0, (line - 3) * height);
    return true;
  }
}

/** A node's name that stays through undo and reload; the root graph's own id does not. */
function keyOf(node) {
  const inner = node.graph?.isRootGraph === false ? node.graph.id : "";
  return `${inner}/${node.id}`;
}

function hasScript(node) {
  return OURS.test(node.type ?? "") && widget(node, WIDGET) && !isLinked(node, "storyboard");
}

/** The text box of a node's script, in either of the page's two ways to draw nodes. */
function textBox(node, text) {
  const own = widget(node, WIDGET);
  for (const candidate of [own.inputEl, own.element, own.element?.querySelector?.("textarea")])
    if (candidate?.tagName === "TEXTAREA" && candidate.isConnected) return candidate;
  const id = CSS.escape(String(node.id));
  const drawn = document.querySelectorAll(`[data-node-id="${id}"] textarea`);
  const same = text.replace(/\r\n?/g, "\n");
  return [...drawn].find((box) => box.value === same) ?? drawn[0];
}

function lineSpan(text, line) {
  let start = 0;
  let number = 1;
  for (const match of text.matchAll(ENDS_OF_LINES)) {
    if (number === line) return [start, match.index];
    start = match.index + match[0].length;
    number++;
  }
  return [number === line ? start : text.length, text.length];
}
