// Where objects are too small to be told apart: the mean colour of those in each cell of a grid over the image.

const LONGER_SIDE = 512; // of the grid, in cells

/** All objects that are shown, never a sample; follows single ones whose colour changes. */
export class Density {
  constructor({ size, x, y, shift, width, height, diameter }) {
    this.side = Math.max(1, Math.max(width, height) / LONGER_SIDE); // of a cell, in pixels of the image
    const columns = Math.ceil(width / this.side), rows = Math.ceil(height / this.side), factor = (1 << shift) / this.side;
    this.cellOf = new Int32Array(size); // of each object, by its middle
    for (let id = 1; id < size; id++) this.cellOf[id] = (y[id] * factor | 0) * columns + (x[id] * factor | 0);
    this.sums = new Int32Array(columns * rows * 4); // red, green, blue and number of each cell
    this.picture = new ImageData(columns, rows);
    this.pixels = new Int32Array(this.picture.data.buffer);
    this.canvas = new OffscreenCanvas(columns, rows);
    this.opacity = (216 * diameter ** 2) / this.side ** 2; // of one typical object, which covers a part of its cell
    this.isSummed = this.isDrawn = false;
  }

  /** Adds up all objects anew. */
  sum(table, size) {
    const { cellOf, sums, pixels } = this;
    sums.fill(0);
    for (let id = 1; id < size; id++) {
      const colour = table[id];
      if (colour === 0) continue;
      const place = cellOf[id] << 2;
      sums[place] += colour & 255;
      sums[place + 1] += colour >> 8 & 255;
      sums[place + 2] += colour >> 16 & 255;
      sums[place + 3] += 1;
    }
    for (let cell = 0; cell < pixels.length; cell++) this.paint(cell);
    this.isSummed = true;
    this.isDrawn = false;
  }

  /** Takes over the new colour of one object; 0 is none. */
  move(id, before, after) {
    const cell = this.cellOf[id], place = cell << 2, { sums } = this;
    sums[place] += (after & 255) - (before & 255);
    sums[place + 1] += (after >> 8 & 255) - (before >> 8 & 255);
    sums[place + 2] += (after >> 16 & 255) - (before >> 16 & 255);
    sums[place + 3] += (after !== 0) - (before !== 0);
    this.paint(cell);
    this.isDrawn = false;
  }

  paint(cell) {
    const place = cell << 2, number = this.sums[place + 3];
    if (number === 0) this.pixels[cell] = 0;
    else {
      const red = this.sums[place] / number, green = this.sums[place + 1] / number, blue = this.sums[place + 2] / number;
      this.pixels[cell] = red | green << 8 | blue << 16 | Math.min(240, 60 + number * this.opacity) << 24;
    }
  }

  /** The grid as a canvas with a pixel for each cell. */
  draw() {
    if (!this.isDrawn) this.canvas.getContext("2d").putImageData(this.picture, 0, 0);
    this.isDrawn = true;
    return this.canvas;
  }
}
