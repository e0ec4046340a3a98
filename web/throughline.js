// Throughline's tab in the sidebar: the runs on disk and the strip of their segments.
// It uses the frontend's extension API only and touches nodes by their widgets' names.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { GraphSide } from "./graph.js";
import { Panel } from "./panel.js";
import { RunStore } from "./runs.js";
import { translator } from "./texts.js";

const GLANCE_MS = 250; // how often the open tab looks at the selection and the sampler's widgets

const store = new RunStore(async (path) => {
  const answer = await api.fetchApi(path);
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return answer.json();
});
const graph = new GraphSide(app);
let mounted = null;

function locale() {
  return app.extensionManager.setting.get("Comfy.Locale") ?? "en";
}

function mount(element) {
  unmount();
  const panel = new Panel(element, {
    store,
    graph,
    text: translator(locale()),
    address: (path) => api.apiURL(path),
  });
  const timer = setInterval(followGraph, GLANCE_MS);
  mounted = { panel, timer };
  followGraph();
  store.refresh();
}

function unmount() {
  if (!mounted) return;
  clearInterval(mounted.timer);
  mounted.panel.close();
  mounted = null;
}

function followGraph() {
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
