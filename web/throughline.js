// Throughline's tab in the sidebar: the storyboard, and the runs on disk with their segments.
// It uses the frontend's extension API only and touches nodes by their widgets' names.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { Editor } from "./editor.js";
import { GraphSide } from "./graph.js";
import { Panel } from "./panel.js";
import { RunStore } from "./runs.js";
import { ScriptSide } from "./script_graph.js";
import { StoryboardStore } from "./storyboard.js";
import { Tab } from "./tab.js";
import { translator } from "./texts.js";

const GLANCE_MS = 250; // how often the open tab looks at the selection and the sampler's widgets

const store = new RunStore(async (path) => {
  const answer = await api.fetchApi(path);
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return answer.json();
});
const graph = new GraphSide(app);
const scripts = new ScriptSide(app);
const storyboard = new StoryboardStore(scripts, async (path, body) => {
  const headers = { "Content-Type": "application/json" };
  const answer = await api.fetchApi(path, { method: "POST", headers, body: JSON.stringify(body) });
  const told = await answer.json().catch(() => null);
  return told ?? { error: `${answer.status} ${answer.statusText}`, line: null, column: null };
});
let mounted = null;
let chosen = ""; // the view that was chosen by hand

function locale() {
  return app.extensionManager.setting.get("Comfy.Locale") ?? "en";
}

function mount(element) {
  // The page calls this again whenever it draws its sidebar, also while something is being typed.
  if (mounted?.element === element && mounted.tab.isIn(element)) return;
  unmount();
  const text = translator(locale());
  const address = (path) => api.apiURL(path);
  const views = {
    storyboard: {
      label: text("view.storyboard"),
      make: (host) => new Editor(host, { store: storyboard, text, address }),
    },
    runs: {
      label: text("view.runs"),
      make: (host) => new Panel(host, { store, graph, text, address }),
    },
  };
  const shown = chosen || (scripts.hasStoryboard() ? "storyboard" : "runs");
  const onChange = (name) => (chosen = name);
  const tab = new Tab(element, { views, shown, onChange });
  const timer = setInterval(followGraph, GLANCE_MS);
  mounted = { element, tab, timer };
  followGraph();
  store.refresh();
}

function unmount() {
  if (!mounted) return;
  clearInterval(mounted.timer);
  mounted.tab.close();
  mounted = null;
}

function followGraph() {
  if (mounted.tab.shown === "storyboard") storyboard.look();
  if (graph.lookAtSelection() && graph.selectedRun) store.show(graph.selectedRun);
  else if (graph.lookAtWidgets(store.shown)) store.notify();
}

function listen() {
  api.addEventListener("throughline.segment", ({ detail }) => store.segmentEvent(detail));
  api.addEventListener("progress_state", ({ detail }) => store.progressEvent(detail));
  api.addEventListener("executed", ({ detail }) => {
    const run = detail.output?.text && graph.runOf(detail.node);
    if (run) store.said(run, detail.output.text.join("\n"));
  });
  api.addEventListener("execution_start", () => store.started());
  for (const end of ["execution_success", "execution_error", "execution_interrupted"])
    api.addEventListener(end, ({ detail }) => store.ended(end, detail));
  api.addEventListener("reconnected", () => store.refresh());
}

app.registerExtension({
  name: "throughline",
  setup() {
    const text = translator(locale());
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("./throughline.css", import.meta.url).href;
    document.head.append(style);
    listen();
    app.extensionManager.registerSidebarTab({
      id: "throughline",
      icon: "mdi mdi-filmstrip",
      title: "Throughline",
      tooltip: text("tab.tooltip"),
      type: "custom",
      render: mount,
      destroy: unmount,
    });
  },
});
