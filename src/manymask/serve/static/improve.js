// Improve: trains on the checked images, and shows the curve while it does.

import { post, remove } from "./api.js";
import { countOf, find, make, makeSvg, tell } from "./dom.js";

const LEAST = 2; // checked images: one to learn from, one to score
const WIDTH = 460, HEIGHT = 170, LEFT = 36, BOTTOM = 22;

export class Improve {
  constructor({ getImages, getModels, onModel }) {
    Object.assign(this, { getImages, getModels, onModel });
    this.job = null;
    find("improve").onclick = () => this.open();
    find("improve-start").onclick = () => this.start();
    find("improve-cancel").onclick = () => this.cancel();
    find("improve-use").onclick = () => this.use();
  }

  open() {
    const checked = this.getImages().filter((image) => image.checked), { models, current } = this.getModels();
    find("improve-base").replaceChildren(...models.map(({ name }) => make("option", { value: name, textContent: name, selected: name === current })));
    const what = checked.some((image) => image.region) ? "of some only a part" : countOf(checked.reduce((sum, image) => sum + image.num_objects, 0), "object");
    const number = `${countOf(checked.length, "checked image")}, ${what}.`;
    find("improve-data").textContent = checked.length >= LEAST ? number
      : `${number} Two or more are needed, one of which scores the result: correct images, and press Checked or Checked in view below each.`;
    find("improve-start").disabled = checked.length < LEAST;
    this.draw();
    find("improve-dialog").showModal();
  }

  async start() {
    try {
      const job = await post("/api/improve", { minutes: Number(find("improve-minutes").value), base: find("improve-base").value });
      if (this.job?.id !== job.id) this.follow(job); // unless events were faster than the answer, and so tell more
    } catch (error) {
      tell(error.message, { isError: true });
    }
  }

  async cancel() {
    try {
      await remove(`/api/jobs/${this.job.id}`);
    } catch (error) {
      tell(error.message, { isError: true });
    }
  }

  async use() {
    try {
      await post("/api/models/current", { name: this.job.result.model });
      this.onModel(this.job.result.model);
      find("improve-use").disabled = true;
      tell(`New images are predicted with ${this.job.result.model}. Results that are here stay.`);
    } catch (error) {
      tell(error.message, { isError: true });
    }
  }

  /** Takes over what the server says of the training. */
  follow(job) {
    const wasRunning = this.isRunning;
    this.job = job;
    if (wasRunning && job.status === "done" && !find("improve-dialog").open) tell(`Training is done. ${job.result?.sentence ?? ""}`);
    this.draw();
  }

  get isRunning() {
    return this.job !== null && ["waiting", "running"].includes(this.job.status);
  }

  draw() {
    const { job } = this, [done, total] = job?.progress ?? [0, 0];
    find("improve-form").hidden = this.isRunning;
    find("improve-job").hidden = !job;
    find("improve").classList.toggle("busy", this.isRunning);
    if (!job) return;
    find("improve-what").textContent = job.error ?? job.what ?? job.status;
    find("improve-what").className = job.error ? "error" : "";
    Object.assign(find("improve-progress"), { hidden: !this.isRunning, max: total || 1, value: done });
    find("improve-cancel").hidden = !this.isRunning;
    find("improve-curve").replaceChildren(...(job.rows?.length ? [drawCurve(job.rows)] : []));
    find("improve-sentence").textContent = job.result?.sentence ?? "";
    find("improve-use").hidden = !job.result?.model;
  }
}

/** The score over the epochs, with its best marked; epochs without a score have none. */
function drawCurve(rows) {
  const key = ["val_mask_AP50", "val_mask_AP"].find((name) => rows.some((row) => Number.isFinite(row[name])));
  if (!key) return make("p", { className: "soft", textContent: `Loss ${rows.at(-1).loss?.toFixed(3) ?? "–"}; the first score comes after the first epoch.` });
  const points = rows.filter((row) => Number.isFinite(row[key])).map((row) => [row.epoch, row[key]]);
  const [first, last] = [points[0][0], points.at(-1)[0]], best = points.reduce((a, b) => (b[1] > a[1] ? b : a));
  const x = (epoch) => LEFT + ((epoch - first) / Math.max(1, last - first)) * (WIDTH - LEFT - 40), y = (score) => 10 + (1 - score) * (HEIGHT - BOTTOM - 10);
  const text = (content, attributes) => makeSvg("text", attributes, content);
  return makeSvg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${key}: ${points.at(-1)[1].toFixed(3)} in epoch ${last}, best ${best[1].toFixed(3)}` },
    ...[0, 0.5, 1].flatMap((value) => [makeSvg("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }), text(String(value), { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" })]),
    makeSvg("path", { class: "curve", d: points.map(([epoch, score], i) => `${i ? "L" : "M"}${x(epoch)} ${y(score)}`).join("") }),
    makeSvg("circle", { cx: x(best[0]), cy: y(best[1]), r: 4 }), text(best[1].toFixed(3), { class: "best", x: x(best[0]), y: y(best[1]) - 9, "text-anchor": "middle" }),
    text(`epoch ${last}`, { x: WIDTH, y: HEIGHT - 4, "text-anchor": "end" }), text(key.includes("50") ? "mask AP50" : "mask AP", { x: LEFT, y: HEIGHT - 4 }));
}
