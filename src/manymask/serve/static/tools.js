// What the pointer does on the image: picking, selecting, brush, eraser, split, drawing. Acts are handed to `act`.

import { find } from "./dom.js";
import { insideOf, runsOfShape, runsOfStroke } from "./strokes.js";

const CLICK = 4; // screen pixels: a press that moves less is a click
const CURSORS = { select: "default", box: "crosshair", lasso: "crosshair", brush: "none", erase: "none", split: "crosshair" };

export class Tools {
  constructor(viewer, { act, select, hover, getTarget, getClass }) {
    Object.assign(this, { viewer, act, select, hover, getTarget, getClass });
    this.name = "select";
    this.radius = 12; // of the brush, in screen pixels
    this.line = null; // points of the stroke that is drawn, on the screen
    this.pointers = new Set(); // that are down, by their ids
    const { stage } = viewer;
    this.context = stage.querySelector("canvas.strokes").getContext("2d");
    for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => this.choose(button.dataset.tool);
    // In the capturing phase: what a tool takes, OpenSeadragon does not see, so the image stays where it is.
    stage.addEventListener("pointerdown", (event) => this.press(event), true);
    stage.addEventListener("pointermove", (event) => this.move(event), true);
    stage.addEventListener("pointerup", (event) => this.release(event), true);
    stage.addEventListener("pointercancel", (event) => (this.pointers.delete(event.pointerId), this.stop()), true);
    stage.addEventListener("pointerleave", () => (this.draw(null), this.hover(0, null)));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => this.turn(event), { capture: true, passive: false });
  }

  choose(name) {
    this.name = name;
    for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
    this.viewer.stage.style.cursor = CURSORS[name];
    find("brush-size").hidden = name !== "brush" && name !== "erase";
    this.stop();
  }

  resizeBrush(factor) {
    this.radius = Math.min(200, Math.max(1, this.radius * factor));
    this.draw(this.last);
  }

  locate(event) {
    const box = this.viewer.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** What a press does: the tool, or a shape where the right button or Shift or Alt asks for it. */
  modeOf(event) {
    if (event.button === 2) return "draw";
    if (event.button !== 0) return null;
    if (this.name === "select") return event.shiftKey || event.altKey ? "box" : "pan";
    return this.name;
  }

  press(event) {
    if (!this.viewer.image || event.target.closest("button, .divider, .navigator")) return;
    const mode = this.modeOf(event);
    if (!mode) return this.stop(); // a button of no use here, whose release may never be seen
    this.pointers.add(event.pointerId);
    if (this.pointers.size > 1) return this.stop(); // two fingers zoom
    this.mode = mode;
    this.line = [this.locate(event)];
    if (mode === "pan") return; // OpenSeadragon's, unless it turns out to be a click
    event.stopPropagation();
    event.preventDefault();
    this.viewer.stage.setPointerCapture(event.pointerId);
    this.draw(this.line[0]);
  }

  move(event) {
    const place = this.locate(event);
    this.last = place;
    if (!this.line) {
      if (event.buttons === 0) this.pointAt(place, event);
      return this.draw(place);
    }
    if (this.mode === "pan") return;
    event.stopPropagation();
    // All places between two frames, so that quick strokes stay round.
    for (const part of event.getCoalescedEvents?.() ?? []) this.line.push(this.locate(part));
    this.line.push(place);
    this.draw(place);
  }

  pointAt([x, y], event) {
    if (!this.viewer.image || event.target.closest(".toolbar, .navigator, .divider")) return this.hover(0, null);
    const [id = 0] = this.viewer.overlayAt(x).pick(x, y);
    this.hover(id, [x, y]);
  }

  release(event) {
    this.pointers.delete(event.pointerId);
    const { line, mode } = this;
    if (!line) return;
    const end = this.locate(event), [x, y] = line[0];
    const isClick = Math.max(...[...line, end].map(([a, b]) => Math.hypot(a - x, b - y))) <= CLICK;
    this.stop();
    if (mode !== "pan") event.stopPropagation();
    if (isClick && ["pan", "box", "lasso"].includes(mode)) this.click(line[0], event);
    else if (isClick && (mode === "split" || mode === "draw")) return;
    else if (mode !== "pan") this.finish(mode, line.map(([a, b]) => this.viewer.toImage(a, b)), line, event);
  }

  stop() {
    this.line = this.mode = null;
    this.draw(this.last);
  }

  click([x, y], event) {
    const ids = this.viewer.overlayAt(x).pick(x, y), target = this.getTarget();
    this.stacked = ids;
    const [id] = ids;
    if (id && (event.ctrlKey || event.metaKey)) this.act({ op: "delete", ids: [id] });
    else if (id && event.altKey && target && target !== id) this.act({ op: "merge", ids: [target, id] });
    else this.select(id ? [id] : [], event.shiftKey ? "toggle" : "replace");
  }

  /** Selects the next of the objects that overlap where was clicked. */
  cycle() {
    const stacked = this.stacked?.length > 1 ? this.stacked : null;
    if (stacked) this.select([stacked[(stacked.indexOf(this.getTarget()) + 1) % stacked.length]], "replace");
    return stacked;
  }

  finish(mode, points, line, event) {
    const { width, height } = this.viewer.image, { scale } = this.viewer.view;
    const how = event.shiftKey ? "add" : event.altKey ? "remove" : "replace";
    if (mode === "box" || mode === "lasso") return this.select(this.listInside(mode === "box" ? toBox(points) : points), how);
    if (mode === "split") {
      const id = this.getTarget() ?? this.findUnder(line);
      return id ? this.act({ op: "split", id, stroke: points }) : null;
    }
    const isErasing = mode === "erase" || (mode === "brush" && event.altKey);
    const runs = mode === "draw" ? runsOfShape(points, width, height) : runsOfStroke(points, Math.max(this.radius / scale, 0.5), width, height);
    if (!runs.length) return null;
    const target = this.getTarget() ?? (mode === "draw" ? null : this.findUnder(isErasing ? line : line.slice(0, 1)));
    if (mode === "draw" || (!target && !isErasing)) return this.act({ op: "draw", class: this.getClass(), runs });
    return target ? this.act({ op: isErasing ? "erase" : "paint", id: target, runs }) : null;
  }

  /** The object that most of a line lies on. */
  findUnder(line) {
    const counts = new Map();
    for (const [x, y] of line) for (const id of this.viewer.overlays[0].pick(x, y).slice(0, 1)) counts.set(id, (counts.get(id) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? null;
  }

  /** Shown objects whose middles lie in a shape, in view or not. */
  listInside(shape) {
    const { objects } = this.viewer.overlays[0], isInside = insideOf(shape), ids = [];
    for (let id = 1; id < objects.size; id++) if (objects.table[id] !== 0 && isInside(...objects.center(id))) ids.push(id);
    return ids;
  }

  turn(event) {
    if (!event.altKey || (this.name !== "brush" && this.name !== "erase")) return;
    event.preventDefault();
    event.stopPropagation();
    this.resizeBrush(event.deltaY < 0 ? 1.15 : 1 / 1.15);
  }

  /** The stroke that is drawn, or the brush under the pointer. */
  draw(place) {
    const { context } = this, { canvas } = context, { clientWidth: width, clientHeight: height } = this.viewer.stage;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    else context.clearRect(0, 0, width, height);
    const isBrush = this.name === "brush" || this.name === "erase";
    if (this.line && this.mode !== "pan") {
      const shape = this.mode === "box" ? toBox([this.line[0], this.line.at(-1)]) : this.line;
      const isThick = this.mode === "brush" || this.mode === "erase";
      const path = new Path2D();
      shape.forEach(([x, y], index) => (index ? path.lineTo(x, y) : path.moveTo(x, y)));
      if (shape.length === 1) path.lineTo(shape[0][0] + 0.1, shape[0][1]);
      if (this.mode === "box" || this.mode === "lasso" || this.mode === "draw") path.closePath();
      Object.assign(context, { lineCap: "round", lineJoin: "round" });
      if (isThick) Object.assign(context, { lineWidth: 2 * this.radius, strokeStyle: this.mode === "erase" ? "rgb(213 94 0 / .5)" : "rgb(255 255 255 / .5)" });
      else {
        Object.assign(context, { lineWidth: 3.5, strokeStyle: "rgb(0 0 0 / .6)" });
        context.stroke(path);
        Object.assign(context, { lineWidth: 1.5, strokeStyle: "#fff" });
      }
      context.stroke(path);
    }
    if (isBrush && place)
      for (const [lineWidth, strokeStyle] of [[3, "rgb(0 0 0 / .6)"], [1.25, "#fff"]]) {
        Object.assign(context, { lineWidth, strokeStyle });
        context.beginPath();
        context.arc(...place, this.radius, 0, 2 * Math.PI);
        context.stroke();
      }
  }
}

function toBox(points) {
  const [[ax, ay]] = points, [bx, by] = points.at(-1);
  return [[ax, ay], [bx, ay], [bx, by], [ax, by]];
}
