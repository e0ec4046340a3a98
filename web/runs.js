// What the tab knows of the runs: what the server tells of the disk, and above it what has happened
// since, from events. No DOM and no ComfyUI in here.

const RUNS = "/throughline/runs";
// Words of the run folder for what is simply not there yet.
const SAME = { missing: "waiting", depends: "waiting" };

export class RunStore extends EventTarget {
  runs = []; // entries of GET /throughline/runs
  shown = ""; // name of the run whose strip is shown
  error = ""; // why the last request failed
  running = null; // {run, node, segment, steps, value, base}: what is being sampled now
  // By name: {error, said, kind, schedule, disk: number to entry, live: the same}.
  #films = new Map();
  #request;
  #asking = new Set();
  #again = new Set();
  #free = true; // whether an event may switch to its run

  constructor(request) {
    super();
    this.#request = request;
  }

  notify() {
    this.dispatchEvent(new Event("change"));
  }

  /** Show a run's strip; asks the server what is on disk. */
  show(name) {
    this.shown = name;
    this.#free = false;
    this.notify();
    if (name) this.#ask(name);
  }

  /** Ask for the list of runs and for the run that is shown. */
  async refresh() {
    await this.#ask("");
    if (!this.shown && this.runs.length) this.shown = this.runs[0].name;
    if (this.shown) await this.#ask(this.shown);
  }

  /** The segments of a run in order, each as the strip shows it. */
  segments(name = this.shown) {
    const film = this.#film(name);
    const numbers = new Set([...film.disk.keys(), ...film.live.keys()]);
    return [...numbers]
      .sort((a, b) => a - b)
      .map((number) => ({ ...film.disk.get(number), ...film.live.get(number), number }));
  }

  /** Keep what the sampler said when it had done its work: its summary, or what it would render. */
  said(name, text) {
    this.#film(name).said = text;
    this.notify();
  }

  /** What the shown run's sampler said last, "" if nothing. */
  saying() {
    return this.#film(this.shown).said;
  }

  /** Why the shown run cannot be read, "" when it can. */
  problem() {
    return this.#film(this.shown).error || this.error;
  }

  /** What the shown run holds: "film", "plan", "fill" or "keyframes". */
  kind() {
    return this.#film(this.shown).kind;
  }

  /** The predicted and the actual schedule of the shown run, null where there is none. */
  schedule() {
    return this.#film(this.shown).schedule;
  }

  isListed(name) {
    return this.runs.some((run) => run.name === name);
  }

  segmentEvent(detail) {
    const film = this.#film(detail.run);
    const status = SAME[detail.status] ?? detail.status;
    const entry = { status, reason: detail.reason ?? "" };
    const fields = { shot: "shot_id", prompt: "prompt", seed: "seed", take: "take" };
    for (const [from, to] of Object.entries(fields))
      if (detail[from] !== undefined) entry[to] = detail[from];
    if (detail.seconds !== undefined) entry.seconds = detail.seconds;
    for (const number of film.disk.keys()) if (number > detail.segments) film.disk.delete(number);
    for (let number = 1; number <= detail.segments; number++)
      if (!film.disk.has(number)) film.disk.set(number, { status: "waiting", reason: "" });
    film.live.set(detail.segment, entry);
    film.error = "";
    const sameSegment = status === "running" && this.#step(detail);
    if (this.#free && this.shown !== detail.run) this.shown = detail.run;
    this.#free = false;
    if (!sameSegment) {
      this.#ask("");
      this.#ask(detail.run);
    }
    this.notify();
  }

  progressEvent(detail) {
    const node = this.running && detail.nodes?.[this.running.node];
    if (!node || node.value === this.running.value) return;
    this.running.value = node.value;
    this.notify();
  }

  /** Step of the segment that is being sampled: {step, steps}, or null. */
  step() {
    if (!this.running?.steps) return null;
    const { value, base, steps, told } = this.running;
    return { step: Math.min(steps, Math.max(0, told ?? value - base)), steps };
  }

  /** Mark segments that were just queued, until the sampler tells more of them. */
  queued(numbers) {
    const film = this.#film(this.shown);
    for (const number of numbers)
      film.live.set(number, { ...film.live.get(number), status: "waiting", reason: "queued" });
    this.notify();
  }

  /** The server refused the graph: the marks of `queued` go away. */
  unqueue() {
    for (const [number, entry] of this.#film(this.shown).live)
      if (entry.reason === "queued") this.#film(this.shown).live.delete(number);
    this.notify();
  }

  started() {
    this.#free = true;
    for (const film of this.#films.values())
      for (const [number, entry] of film.live)
        if (entry.status !== "waiting") film.live.delete(number);
  }

  /** The graph has ended: nothing runs any more, and the disk knows best what is finished. */
  ended(kind, detail) {
    const running = this.running;
    this.running = null;
    for (const film of this.#films.values())
      for (const [number, entry] of film.live) {
        const open = entry.status === "running" || entry.status === "failed";
        if (open && kind === "execution_interrupted")
          film.live.set(number, { ...entry, status: "interrupted", reason: "" });
        else if (open && kind === "execution_error") {
          const told = entry.status === "failed" ? entry.reason : "";
          const reason = told || detail?.exception_message || "";
          film.live.set(number, { ...entry, status: "failed", reason });
        } else if (entry.status === "waiting") film.live.delete(number);
      }
    this.notify();
    if (running || this.shown) this.refresh();
  }

  /** Note the step of the segment that is being sampled. True when it already was that one. */
  #step(detail) {
    const { run, node, segment, steps, step } = detail;
    const same = this.running?.run === run && this.running.segment === segment;
    const base = this.running?.run === run ? this.running.value : 0;
    if (same) this.running.told = step;
    else this.running = { run, node: String(node), segment, steps, base, value: base, told: step };
    return same;
  }

  #film(name) {
    if (!this.#films.has(name))
      this.#films.set(name, {
        error: "",
        said: "",
        kind: "film",
        schedule: null,
        disk: new Map(),
        live: new Map(),
      });
    return this.#films.get(name);
  }

  /** Ask for one run, or for the list (""); a question that is under way is asked once more. */
  async #ask(name) {
    if (this.#asking.has(name)) {
      this.#again.add(name);
      return;
    }
    this.#asking.add(name);
    try {
      do {
        this.#again.delete(name);
        if (name) await this.#askRun(name);
        else this.runs = (await this.#request(RUNS)).runs;
        this.error = "";
      } while (this.#again.has(name));
    } catch (error) {
      this.error = String(error.message ?? error);
    } finally {
      this.#asking.delete(name);
    }
    this.notify();
  }

  async #askRun(name) {
    const film = this.#film(name);
    if (!this.isListed(name)) this.runs = (await this.#request(RUNS)).runs;
    if (!this.isListed(name)) {
      film.disk.clear();
      film.error = "";
      film.schedule = null;
      return;
    }
    const answer = await this.#request(`${RUNS}/${encodeURIComponent(name)}`);
    film.error = answer.error ?? "";
    film.kind = answer.kind;
    film.schedule = answer.schedule;
    film.disk = new Map(answer.segments.map((segment) => [segment.number, segment]));
    // What the disk has is told best by the disk: its seconds, thumbnail and statistics.
    for (const [number, entry] of film.live) {
      const status = film.disk.get(number)?.status;
      const made = entry.status === "done" || entry.status === "reused";
      if ((made && status === "damaged") || (entry.status === "done" && status === "done"))
        film.live.delete(number);
    }
  }
}
