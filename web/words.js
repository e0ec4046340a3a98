// Shows what our nodes say about their result below their widgets, as core's own nodes do. Also
// when the result comes from the cache, where the server sends the words with `executed` alone.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

function show({ detail }) {
  const text = detail.output?.text?.join("\n");
  const node = (app.canvas?.graph ?? app.graph).getNodeById(String(detail.node).split(":").pop());
  if (text && node?.type?.startsWith("Throughline"))
    api.dispatchEvent(
      new CustomEvent("progress_text", { detail: { nodeId: String(detail.node), text } }),
    );
}

app.registerExtension({
  name: "throughline.words",
  setup: () => api.addEventListener("executed", show),
});
