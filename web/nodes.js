// Nodes and their widgets, by name: the only things of the graph that the tab touches.

/** Every node of a graph, those inside subgraphs too. */
export function* allNodes(graph) {
  for (const node of graph?.nodes ?? []) {
    yield node;
    if (node.isSubgraphNode?.()) yield* allNodes(node.subgraph);
  }
}

export function rootGraph(app) {
  return app.rootGraph ?? app.graph;
}

export function selectedNodes(app) {
  return Object.values(app.canvas?.selected_nodes ?? {});
}

export function widget(node, name) {
  return node.widgets?.find((candidate) => candidate.name === name);
}

export function widgetValue(node, name) {
  return widget(node, name)?.value;
}

/** Whether an input, or the input of a widget, has a link. */
export function isLinked(node, name) {
  const input = node.inputs?.find(
    (candidate) => candidate.widget?.name === name || candidate.name === name,
  );
  return input?.link != null;
}

/** Set a widget as one step of the graph's own history: undo takes it back. */
export function setWidget(app, node, name, value) {
  const target = widget(node, name);
  capture(app); // what was changed before stays a step of its own
  node.graph?.beforeChange?.();
  target.value = value;
  target.callback?.(value);
  node.graph?.afterChange?.();
  node.graph?.setDirtyCanvas?.(true, true);
  capture(app);
}

/** Let the page compare the graph with what it last saw, as it does after every click. */
function capture(app) {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState?.(); // pages before 1.40
}
