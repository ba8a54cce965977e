// The list of images with what each is at, and how new ones come: a file dialog, files or folders dropped, the example.

import { post, remove } from "./api.js";
import { countOf, find, formatCount, make, tell } from "./dom.js";
import { countLevels } from "./viewer.js";

export class ImageList {
  constructor({ onOpen, onNone }) {
    Object.assign(this, { onOpen, onNone });
    this.images = new Map();
    this.current = null;
    find("choose-files").onclick = find("empty-choose").onclick = () => find("files").click();
    find("files").onchange = () => (this.upload([...find("files").files]), (find("files").value = ""));
    for (const id of ["example", "empty-example"]) find(id).onclick = () => this.send("/api/images/example");
    find("sort").onchange = () => this.draw();
    let depth = 0; // of elements that the dragged files entered
    addEventListener("dragenter", (event) => (event.preventDefault(), depth++, document.body.classList.add("dropping")));
    addEventListener("dragleave", () => --depth <= 0 && document.body.classList.remove("dropping"));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", async (event) => {
      event.preventDefault();
      depth = 0;
      document.body.classList.remove("dropping");
      this.upload(await listDropped(event.dataTransfer));
    });
  }

  /** Sends files one after the other, so that the first is there soon and one refusal stops nothing. */
  async upload(files) {
    for (const [index, file] of files.entries()) {
      find("uploading").hidden = false;
      find("uploading").textContent = `Sending ${index + 1} of ${files.length}: ${file.name}`;
      const form = new FormData();
      form.append("files", file, file.name);
      await this.send("/api/images", form);
    }
    find("uploading").hidden = true;
  }

  async send(path, body) {
    const taken = await post(path, body).catch((error) => error.answer?.refused ? error.answer : void tell(error.message, { isError: true }));
    if (!taken) return;
    for (const { name, detail } of taken.refused ?? []) tell(`${name}: ${detail}`, { isError: true });
    for (const image of taken.images) this.update(image);
    if (taken.images.length && !this.current) this.open(taken.images[0].id);
  }

  /** Takes over what the server says of an image. */
  update(image) {
    this.images.set(image.id, image);
    this.draw();
  }

  replace(images) {
    this.images = new Map(images.map((image) => [image.id, image]));
    this.draw();
  }

  get sorted() {
    const images = [...this.images.values()];
    if (find("sort").value === "unsure") images.sort((a, b) => b.num_unsure - a.num_unsure);
    if (find("sort").value === "name") images.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    return images;
  }

  open(id) {
    this.current = id;
    this.draw();
    this.onOpen(this.images.get(id));
  }

  step(by) {
    const ids = this.sorted.map(({ id }) => id);
    if (ids.length) this.open(ids[(ids.indexOf(this.current) + by + ids.length) % ids.length]);
  }

  async discard(image) {
    if (!confirm(`Remove ${image.name} and its corrections from this page? This cannot be undone.`)) return;
    try {
      await remove(`/api/images/${image.id}`);
    } catch (error) {
      tell(error.message, { isError: true });
      return;
    }
    this.drop(image.id);
  }

  drop(id) {
    this.images.delete(id);
    if (this.current === id) {
      this.current = null;
      const [next] = this.sorted;
      if (next) this.open(next.id);
    }
    this.draw();
  }

  draw() {
    const { sorted } = this, focused = document.activeElement?.dataset?.image;
    document.body.classList.toggle("empty", sorted.length === 0);
    if (!sorted.length) this.onNone();
    find("num-images").textContent = sorted.length ? formatCount(sorted.length) : "";
    find("images").replaceChildren(...sorted.map((image) => this.drawRow(image)));
    if (focused) find("images").querySelector(`[data-image="${focused}"]`)?.focus();
  }

  drawRow(image) {
    const level = Math.min(8, countLevels(image.width, image.height));
    const picture = make("img", { src: `/api/images/${image.id}/tiles/${level}/0_0.webp`, alt: "", loading: "lazy", decoding: "async" });
    const button = make("button", { type: "button", "data-image": image.id, title: `${image.name}, ${image.width} x ${image.height} pixels`, onclick: () => this.open(image.id) },
      picture, make("span", {}, make("b", { textContent: image.name }), make("small", { className: image.status, textContent: describe(image) })));
    if (image.id === this.current) button.setAttribute("aria-current", "true");
    const [done, total] = image.progress ?? [0, 0];
    if (image.status === "predicting") button.append(make("progress", { max: total || 1, value: total ? done : 0, ariaLabel: "predicted" }));
    const bin = make("button", { type: "button", className: "plain", textContent: "×", ariaLabel: `Remove ${image.name}`, title: "Remove", onclick: () => this.discard(image) });
    return make("li", {}, button, bin);
  }
}

function describe({ status, progress, num_objects: number, num_edited: edited, checked, region, error }) {
  if (status === "waiting") return "waiting";
  if (status === "predicting") return `${formatCount(number)} so far, ${progress?.[1] ? Math.round((100 * progress[0]) / progress[1]) : 0} %`;
  if (status === "failed") return error || "failed";
  const parts = [countOf(number, "object")];
  if (status === "cancelled") parts.push("cancelled");
  if (edited) parts.push(`${formatCount(edited)} edited`);
  if (checked) parts.push(region ? "✓ a part checked" : "✓ checked");
  return parts.join(" · ");
}

/** The files of what was dropped; those of folders too, without hidden ones. */
async function listDropped(transfer) {
  // Before anything is awaited: afterwards the list is empty.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = [];
  for (const entry of entries) await walk(entry, files);
  return files;
}

async function walk(entry, files) {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 at a time
    if (!some.length) return;
    for (const child of some) await walk(child, files);
  }
}
