// A reference picture from ComfyUI's input folder, or the first letter where it cannot be shown.

import { element } from "./dom.js";

export class Thumbnail {
  #address;

  /** `address(path)`: the URL of a route of the server. */
  constructor(address) {
    this.#address = address;
  }

  /** An element with the picture of that file ("" for none), for what is called `name`. */
  show(file, name) {
    const letter = element("span", { "aria-hidden": "true" }, [...name][0] ?? "?");
    const root = element("span", { class: "throughline-reference" }, letter);
    if (!file) return root;
    const parts = file.split("/");
    const query = new URLSearchParams({
      filename: parts.pop(),
      subfolder: parts.join("/"),
      type: "input",
    });
    const picture = element("img", {
      src: this.#address(`/view?${query}`),
      alt: "",
      title: file,
      loading: "lazy",
      onload: () => letter.remove(),
      onerror: () => {
        picture.remove();
        root.classList.add("throughline-missing");
        root.title = file;
      },
    });
    root.append(picture);
    return root;
  }
}
