// Which device did what when: the predicted and the actual schedule of a plan's jobs.

import { element, setAttribute, setText } from "./dom.js";

export class Gantt {
  #parts;
  #text;
  #shown = "";

  /** Fill `host`, a figure; hidden while there is no schedule. */
  constructor(host, { text }) {
    this.#text = text;
    this.#parts = {
      host,
      words: element("figcaption", { class: "throughline-facts" }),
      charts: element("div", {}),
    };
    host.replaceChildren(this.#parts.charts, this.#parts.words);
  }

  /** `schedule` as the route of the run gives it, or null. Drawn anew only when it has changed. */
  update(schedule) {
    setAttribute(this.#parts.host, "hidden", !schedule);
    const now = JSON.stringify(schedule ?? null);
    if (now === this.#shown) return;
    this.#shown = now;
    const t = this.#text;
    const { predicted, actual } = schedule ?? {};
    const end = Math.max(predicted?.makespan ?? 0, actual?.makespan ?? 0) || 1;
    this.#parts.charts.replaceChildren(
      ...(predicted ? [this.#chart(t("gantt.predicted"), predicted, schedule, end)] : []),
      ...(actual ? [this.#chart(t("gantt.actual"), actual, schedule, end)] : []),
    );
    setText(this.#parts.words, schedule ? this.#words(schedule) : "");
  }

  /** One chart: a row per device, `end` seconds wide. */
  #chart(name, timing, { devices }, end) {
    const t = this.#text;
    const rows = devices.map((device, index) => {
      const slots = timing.slots.filter((slot) => slot.device === index);
      return element(
        "div",
        { class: "throughline-lane" },
        element("span", { class: "throughline-lane-name", title: device }, device),
        element(
          "div",
          { class: "throughline-slots" },
          ...slots.map((slot) => this.#slot(slot, end)),
        ),
      );
    });
    const label = `${name}: ${t("gantt.seconds", { seconds: timing.makespan.toFixed(1) })}`;
    return element(
      "div",
      { class: "throughline-chart", role: "img", "aria-label": label },
      element("p", { class: "throughline-label" }, label),
      ...rows,
    );
  }

  #slot({ segment, step, start, end: stop }, end) {
    const t = this.#text;
    const [from, to] = [start.toFixed(1), stop.toFixed(1)];
    const values = { segment, step: t(`step.${step}`), from, to };
    const kind = step.split(" ")[0]; // both fills have one colour
    const properties = { class: "throughline-slot", title: t("gantt.slot", values) };
    const dataset = { step: kind, segment };
    const slot = element("span", { ...properties, dataset }, String(segment));
    slot.style.left = `${(100 * start) / end}%`;
    slot.style.width = `${(100 * (stop - start)) / end}%`;
    return slot;
  }

  #words({ predicted, actual, bounds, gap, running }) {
    const t = this.#text;
    const known = actual && !running ? actual : predicted;
    const least = Math.max(bounds.chain, bounds.area, bounds.ramp);
    const words = [
      t("gantt.least", { seconds: least.toFixed(1), gap: (100 * gap).toFixed(0) }),
      known.first_footage == null
        ? ""
        : t("gantt.first", { seconds: known.first_footage.toFixed(1) }),
    ];
    return words.filter(Boolean).join(" ");
  }
}
