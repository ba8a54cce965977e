// Objects over the image: an id buffer of the view, painted from runs and coloured through a table of ids.
//
// Painting depends on the view only, colouring on the table only: a filter colours anew and paints nothing, and what
// lies under the pointer is one read. No WebGL, which browsers no longer have on machines without a GPU.

import { FLAG } from "./packed.js";

const EDGE = 0x80000000 | 0; // bit of an id buffer: a neighbour is another object, or none
const ID = 0x7fffffff;
const DENSE = 3; // screen pixels: where typical objects are smaller, their density is shown
const MAX_PIXELS = 4 << 20; // of the canvas; screens with more get coarser pixels
const SQUARE = 16; // pixels a side that are coloured together

export class Overlay {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.objects = null;
    this.painted = null; // the view that the id buffers show
    this.layers = [];
    this.cost = 0; // milliseconds of the last painting
    this.isOutlined = this.isFilled = true;
  }

  resize(width, height, ratio) {
    this.ratio = width * height * ratio * ratio > MAX_PIXELS ? 1 : ratio;
    const w = Math.max(1, Math.round(width * this.ratio)), h = Math.max(1, Math.round(height * this.ratio));
    if (this.canvas.width === w && this.canvas.height === h) return;
    Object.assign(this.canvas, { width: w, height: h });
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
    this.layers = [];
    this.picture = new ImageData(w, h);
    this.pixels = new Int32Array(this.picture.data.buffer);
  }

  clear() {
    this.objects = null;
    this.painted = null;
    this.layers = [];
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** Whether what was painted has objects, or is still waiting for them. */
  get hasObjects() {
    return Boolean(this.painted && this.objects?.shown) && (this.isDense(this.painted) || this.layers.some((layer) => layer.some((id) => id !== 0)));
  }

  /** Whether objects of this view are too small to be told apart. */
  isDense(view) {
    return this.objects.diameter * view.scale < DENSE;
  }

  /** Paints and colours a view: `left` and `top` in image pixels at the canvas's corner, `scale` screen pixels to one. */
  draw(view) {
    const begin = performance.now();
    this.painted = view;
    this.canvas.style.transform = "";
    if (this.isDense(view)) this.drawDensity(view);
    else {
      this.paint(view);
      this.compose();
    }
    this.cost = performance.now() - begin;
  }

  /** Moves what was painted to where it is in a new view: for the frames while the view moves. */
  shift(view) {
    if (!this.painted) return;
    const { left, top, scale } = this.painted, factor = view.scale / scale;
    this.canvas.style.transform = `translate(${(left - view.left) * view.scale}px, ${(top - view.top) * view.scale}px) scale(${factor})`;
  }

  /** Draws the same view with the table's new colours. */
  recolour() {
    if (!this.painted) return;
    if (this.isDense(this.painted)) this.drawDensity(this.painted);
    else this.compose();
  }

  // Painting -------------------------------------------------------------------------------------------------------

  paint({ left, top, scale }) {
    const { width, height } = this.canvas, zoom = scale * this.ratio;
    const blocks = this.objects.blocksIn(left, top, left + width / zoom, top + height / zoom);
    const numLayers = Math.min(8, Math.max(1, ...blocks.map((block) => block.numLayers)));
    while (this.layers.length < numLayers) this.layers.push(new Int32Array(width * height));
    this.layers.length = numLayers;
    for (const layer of this.layers) layer.fill(0);
    for (const block of blocks) this.paintBlock(block, left, top, zoom);
    for (const layer of this.layers) markEdges(layer, width, height);
  }

  /** Paints runs column by column: a buffer is in column order too, so that a run is one stretch of it. */
  paintBlock(block, left, top, zoom) {
    const { width, height } = this.canvas, { n, ids, layers, x0, y0, widths, counts, starts, ends, firstColumn, firstRun } = block;
    const last = this.layers.length - 1, right = left + width / zoom, { flags } = this.objects;
    for (let row = 0; row < n; row++) {
      if (x0[row] > right || x0[row] + widths[row] < left || flags[ids[row]] & FLAG.gone) continue;
      const layer = this.layers[layers[row] < last ? layers[row] : last], id = ids[row];
      let run = firstRun[row], start = y0[row], end = start;
      // A screen pixel shows the image pixel under its middle, so an image pixel has all screen pixels whose middles it covers.
      let from = Math.ceil((x0[row] - left) * zoom - 0.5);
      for (let column = firstColumn[row], x = x0[row] + 1; column < firstColumn[row + 1]; column++, x++) {
        const to = Math.ceil((x - left) * zoom - 0.5), a = from < 0 ? 0 : from, b = to > width ? width : to;
        for (let count = counts[column]; count > 0; count--, run++) {
          start += starts[run];
          end += ends[run];
          if (a >= b) continue; // between two screen pixels, or out of view
          let low = Math.ceil((start - top) * zoom - 0.5), high = Math.ceil((end - top) * zoom - 0.5);
          if (low < 0) low = 0;
          if (high > height) high = height;
          for (let sx = a; sx < b; sx++) {
            const base = sx * height;
            if (high - low > 24) layer.fill(id, base + low, base + high);
            else for (let place = base + low; place < base + high; place++) layer[place] = id;
          }
        }
        from = to;
      }
    }
  }

  // Colouring ------------------------------------------------------------------------------------------------------

  compose(x0 = 0, y0 = 0, x1 = this.canvas.width, y1 = this.canvas.height) {
    const { width, height } = this.canvas, lineAlpha = this.isOutlined ? 0xff000000 | 0 : 0, fill = this.isFilled ? -1 : 0;
    if (x0 === 0 && x1 === width) this.pixels.fill(0, y0 * width, y1 * width);
    else for (let y = y0; y < y1; y++) this.pixels.fill(0, y * width + x0, y * width + x1);
    for (const layer of this.layers) composeLayer(layer, this.objects.table, this.pixels, width, height, x0, y0, x1, y1, lineAlpha, fill);
    this.context.putImageData(this.picture, 0, 0, x0, y0, x1 - x0, y1 - y0);
  }

  /** Colours one object anew, `id` as hovered or not. */
  highlight(id, isOn) {
    const box = this.painted && !this.isDense(this.painted) && this.objects.bound(id);
    if (!box || !this.objects.isShown(id)) return;
    const { table } = this.objects, before = table[id];
    if (isOn) table[id] = (before & 0x00ffffff) | (150 << 24);
    const { left, top, scale } = this.painted, zoom = scale * this.ratio;
    const [x0, y0, x1, y1] = box;
    const place = (value, origin, most) => Math.max(0, Math.min(most, Math.round((value - origin) * zoom)));
    const { width, height } = this.canvas;
    this.compose(place(x0 - 1, left, width), place(y0 - 1, top, height), place(x1 + 1, left, width), place(y1 + 1, top, height));
    table[id] = before;
  }

  /** Ids of the shown objects under a place on the screen, the uppermost first. */
  pick(x, y) {
    if (!this.painted || this.isDense(this.painted)) return [];
    const { width, height } = this.canvas, column = Math.floor(x * this.ratio), row = Math.floor(y * this.ratio);
    if (column < 0 || row < 0 || column >= width || row >= height) return [];
    const ids = this.layers.map((layer) => layer[column * height + row] & ID).filter((id) => this.objects.isShown(id));
    return [...new Set(ids.reverse())];
  }

  // Density --------------------------------------------------------------------------------------------------------

  drawDensity({ left, top, scale }) {
    const { width, height } = this.canvas, density = this.objects.getDensity(), grid = density.draw(), zoom = scale * this.ratio, side = density.side * zoom;
    this.context.clearRect(0, 0, width, height);
    this.context.imageSmoothingEnabled = true;
    this.context.drawImage(grid, -left * zoom, -top * zoom, grid.width * side, grid.height * side);
  }
}

/** Colours a layer onto a picture, which is in row order, in small squares that stay in the cache. */
function composeLayer(layer, table, pixels, width, height, x0, y0, x1, y1, lineAlpha, fill) {
  for (let left = x0; left < x1; left += SQUARE)
    for (let top = y0, right = Math.min(left + SQUARE, x1); top < y1; top += SQUARE) {
      const bottom = Math.min(top + SQUARE, y1);
      for (let x = left; x < right; x++)
        for (let y = top, place = x * height + top, target = top * width + x; y < bottom; y++, place++, target += width) {
          const value = layer[place];
          if (value === 0) continue;
          const colour = table[value & ID];
          if (colour === 0) continue;
          if (value < 0 && lineAlpha !== 0) pixels[target] = colour | lineAlpha;
          else if (fill !== 0) pixels[target] = colour;
        }
    }
}

/** Marks pixels of objects beside pixels of others, so that outlines are one screen pixel wide at any zoom. */
function markEdges(layer, width, height) {
  for (let x = 0, place = 0; x < width; x++)
    for (let y = 0; y < height; y++, place++) {
      const id = layer[place];
      if (id === 0) continue;
      // What lies left and above is marked already. Objects do not end where the view does.
      if ((y > 0 && (layer[place - 1] & ID) !== id) || (y < height - 1 && layer[place + 1] !== id)
        || (x > 0 && (layer[place - height] & ID) !== id) || (x < width - 1 && layer[place + height] !== id)) layer[place] = id | EDGE;
    }
}

