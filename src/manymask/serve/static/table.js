// The table of shown objects: only the rows in view are elements, so that a million scroll like ten.

import { find, formatCount, formatNumber, make } from "./dom.js";
import { describeFlags } from "./selection.js";

const ROW = 28; // pixels; as in style.css
const MOST_HEIGHT = 16e6; // browsers lay out no higher elements

const COLUMNS = [
  ["id", (objects, id) => id],
  ["class", (objects, id) => objects.cls[id]],
  ["score", (objects, id) => objects.score[id]],
  ["size", (objects, id) => objects.area[id]],
  ["x", (objects, id) => objects.x[id]],
  ["y", (objects, id) => objects.y[id]],
  ["state", (objects, id) => objects.flags[id]],
];

export class ObjectTable {
  constructor(onChoose) {
    this.dialog = find("table-dialog");
    this.body = find("table-rows");
    this.sorted = ["id", 1];
    this.onChoose = onChoose;
    this.body.parentElement.onscroll = () => this.draw();
    find("table-head").replaceChildren(...COLUMNS.map(([name]) =>
      make("button", { type: "button", role: "columnheader", textContent: name, "data-column": name, onclick: () => this.sort(name) })));
    new ResizeObserver(() => this.dialog.open && this.draw()).observe(this.dialog);
  }

  open(objects, { classes, pixelSize }) {
    Object.assign(this, { objects, classes, pixelSize });
    this.ids = new Uint32Array(objects.shown);
    for (let id = 1, n = 0; id < objects.size; id++) if (objects.table[id] !== 0) this.ids[n++] = id;
    find("table-title").textContent = `${formatCount(this.ids.length)} objects`;
    this.dialog.showModal();
    this.order();
  }

  sort(name) {
    const [before, direction] = this.sorted;
    this.sorted = [name, before === name ? -direction : name === "id" || name === "class" ? 1 : -1];
    this.order();
  }

  order() {
    const [name, direction] = this.sorted, { objects } = this;
    const value = COLUMNS.find(([column]) => column === name)[1];
    // Equal values stay in the order of their ids.
    this.ids.sort((a, b) => direction * (value(objects, a) - value(objects, b)) || a - b);
    for (const head of find("table-head").children)
      head.setAttribute("aria-sort", head.dataset.column === name ? (direction > 0 ? "ascending" : "descending") : "none");
    this.body.style.height = `${Math.min(MOST_HEIGHT, this.ids.length * ROW)}px`;
    this.body.parentElement.scrollTop = 0;
    this.draw();
  }

  draw() {
    const { scrollTop, clientHeight, scrollHeight } = this.body.parentElement, tall = this.ids.length * ROW;
    // Of tables higher than a browser can lay out, the scroll bar's share is the share of the rows.
    const top = tall > MOST_HEIGHT ? (scrollTop / Math.max(1, scrollHeight - clientHeight)) * (tall - clientHeight) : scrollTop;
    const first = Math.max(0, Math.floor(top / ROW)), number = Math.ceil(clientHeight / ROW) + 1;
    const rows = [...this.ids.subarray(first, first + number)].map((id, index) => {
      const row = make("button", { type: "button", className: "row", onclick: () => (this.dialog.close(), this.onChoose(id)) }, ...this.texts(id).map((textContent) => make("span", { textContent })));
      row.style.transform = `translateY(${scrollTop + (first + index) * ROW - top}px)`;
      return row;
    });
    this.body.replaceChildren(...rows);
  }

  texts(id) {
    const { objects, classes, pixelSize } = this, [x, y] = objects.center(id), area = objects.area[id];
    return [id, classes[objects.cls[id]]?.name ?? objects.cls[id], (objects.score[id] / 65535).toFixed(3), pixelSize ? `${formatNumber(area * pixelSize ** 2)} µm²` : formatCount(area), x, y, describeFlags(objects.flags[id])];
  }
}
