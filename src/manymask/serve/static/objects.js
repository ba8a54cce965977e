// The objects of one version of one image: a table by id, blocks of runs near the view, and which are shown in which colour.

import { getBytes } from "./api.js";
import { chooseColour, SELECTED_PIXEL } from "./colours.js";
import { Density } from "./density.js";
import { Order } from "./order.js";
import { boundObject, FLAG, readBlock, readTable } from "./packed.js";

export const BLOCK_SIZE = 2048;
const CACHE_BYTES = 48 << 20; // of blocks out of view
const COLUMNS = { score: Uint16Array, cls: Uint8Array, flags: Uint8Array, area: Uint32Array, x: Uint16Array, y: Uint16Array };

function copyLonger(column, longer) {
  longer.set(column);
  return longer;
}

const SELECTED = SELECTED_PIXEL | (110 << 24);

export class Objects {
  constructor(imageId, version) {
    this.base = `/api/images/${imageId}`;
    this.version = version; // null: the current one
    this.query = version === null ? "" : `?version=${version}`;
    this.blocks = new Map(); // "bx_by" -> block, in the order of their last use
    this.loading = new Map();
    this.stale = new Set(); // keys of blocks that changed on the server
    this.selected = new Set();
    this.filter = { score: [0, 65535], area: [0, Infinity], hiddenClasses: new Set(), editedOnly: false, oddOnly: false, hideBorder: false, opacity: 0.3 };
    this.colourBy = "class";
    this.allocate(1);
    this.measure();
    this.isLoaded = false;
    this.shift = this.revision = 0;
    this.onBlock = () => {};
  }

  /** Empty columns for ids below `size`: values, the colour of each, and the colour of those that are shown. */
  allocate(size) {
    this.size = size;
    for (const [name, Type] of Object.entries(COLUMNS)) this[name] = new Type(size);
    this.flags.fill(FLAG.gone); // ids that do not exist are like deleted ones
    this.pixels = new Int32Array(size);
    this.table = new Int32Array(size);
  }

  /** Makes room for ids below `size`. */
  resize(size) {
    if (size > this.table.length) {
      const room = size + 1024; // drawn objects come one by one
      for (const [name, Type] of Object.entries(COLUMNS)) this[name] = copyLonger(this[name], new Type(room));
      this.table = copyLonger(this.table, new Int32Array(room));
      this.pixels = copyLonger(this.pixels, new Int32Array(room));
    }
    if (size > this.size) this.flags.fill(FLAG.gone, this.size, size);
    this.size = Math.max(this.size, size);
  }

  async load() {
    const table = readTable(await getBytes(`${this.base}/table.bin${this.query}`));
    this.isLoaded = true;
    const size = table.n ? table.id[table.n - 1] + 1 : 1;
    this.allocate(size);
    this.shift = table.shift;
    this.revision = table.revision;
    const { id } = table;
    // Where no id is missing, as in nearly all images, the columns are one copy each.
    const isDense = size === table.n + 1;
    for (const name of Object.keys(COLUMNS))
      if (isDense) this[name].set(table[name], 1);
      else for (let row = 0; row < table.n; row++) this[name][id[row]] = table[name][row];
    this.measure();
  }

  /** What does not change with the filter: how many there are, of which sizes. */
  measure() {
    this.orders = {};
    this.density = null;
    let number = 0, least = Infinity, most = 0, sum = 0;
    this.numByClass = new Uint32Array(256);
    for (let id = 1; id < this.size; id++) {
      if (this.flags[id] & FLAG.gone) continue;
      const area = this.area[id];
      number += 1;
      sum += area;
      this.numByClass[this.cls[id]] += 1;
      if (area < least) least = area;
      if (area > most) most = area;
    }
    this.number = number;
    this.areaRange = number ? [least, most] : [1, 1];
    this.diameter = number ? Math.sqrt(sum / number) : 0; // of a typical object, in pixels
    this.paintBy(this.colourBy);
  }

  /** Chooses what colours tell, and then which objects are shown. */
  paintBy(by) {
    this.colourBy = by;
    const pixel = chooseColour(by, this);
    for (let id = 1; id < this.size; id++) this.pixels[id] = pixel(id);
    this.colour();
  }

  /** A function from an id to its colour under the filter, the alpha of its filling in the highest byte; 0: not shown. */
  chooseShown() {
    const { score, area, cls, flags, pixels, filter } = this, alpha = Math.max(1, Math.round(filter.opacity * 255)) << 24;
    const [minScore, maxScore] = filter.score, minArea = Math.ceil(filter.area[0]), maxArea = Math.floor(Math.min(filter.area[1], 0x7fffffff));
    const without = FLAG.gone | (filter.hideBorder ? FLAG.border : 0), needed = (filter.editedOnly ? FLAG.edited : 0) | (filter.oddOnly ? FLAG.odd : 0);
    // -1 for classes and flags that are not shown.
    const classOff = Int32Array.from({ length: 256 }, (_, index) => (filter.hiddenClasses.has(index) ? -1 : 0));
    const flagsOff = Int32Array.from({ length: 256 }, (_, value) => (value & without || (needed && !(value & needed)) ? -1 : 0));
    // Signs instead of branches, which a processor guesses wrong for every second object: -1 if any test fails.
    return (id) => (pixels[id] | alpha)
      & ~(((score[id] - minScore) | (maxScore - score[id]) | (area[id] - minArea) | (maxArea - area[id]) | classOff[cls[id]] | flagsOff[flags[id]]) >> 31);
  }

  /** Colours all objects under the filter. */
  colour() {
    const { size, table } = this, colourOf = this.chooseShown();
    let shown = 0;
    for (let id = 1; id < size; id++) {
      table[id] = colourOf(id);
      shown += table[id] !== 0;
    }
    for (const id of this.selected) if (table[id]) table[id] = SELECTED;
    this.shown = shown;
    this.filtered = this.describeFilter();
    if (this.density) this.density.isSummed = false;
  }

  /** What `table` was made by: the ends of the filter's ranges, and all else of it as a text. */
  describeFilter() {
    const { score, area, hiddenClasses, ...more } = this.filter;
    return { score: [...score], area: [...area], rest: JSON.stringify([[...hiddenClasses], more]) };
  }

  /** Takes over a filter that changed. While a slider moves, only the objects that it passes are looked at. */
  refilter() {
    const before = this.filtered, now = this.describeFilter(), passed = [];
    if (before.rest !== now.rest) return this.colour();
    for (const name of ["score", "area"])
      for (const end of [0, 1])
        if (before[name][end] !== now[name][end]) passed.push((this.orders[name] ??= new Order(this[name], this.size)).between(before[name][end], now[name][end]));
    if (passed.reduce((sum, { length }) => sum + length, 0) > this.size / 4) return this.colour();
    const { table, selected } = this, colourOf = this.chooseShown(), density = this.density?.isSummed ? this.density : null;
    for (const ids of passed)
      for (let i = 0; i < ids.length; i++) {
        const id = ids[i], old = table[id];
        let colour = colourOf(id);
        if (colour !== 0 && selected.has(id)) colour = SELECTED;
        if (colour === old) continue;
        table[id] = colour;
        this.shown += (colour !== 0) - (old !== 0);
        density?.move(id, old, colour);
      }
    this.filtered = now;
  }

  /** The picture of a whole crowd under the filter. */
  getDensity() {
    this.density ??= new Density(this);
    if (!this.density.isSummed) this.density.sum(this.table, this.size);
    return this.density;
  }

  isShown(id) {
    return id > 0 && id < this.size && this.table[id] !== 0;
  }

  select(ids) {
    this.selected = new Set([...ids].filter((id) => this.isShown(id)));
    this.colour();
  }

  center(id) {
    return [this.x[id] << this.shift, this.y[id] << this.shift];
  }

  /** Takes over what an edit changed: rows as in the table, and blocks to fetch again. */
  apply(change) {
    const { rows } = change;
    rows.id.forEach((id, row) => {
      this.resize(id + 1);
      for (const name of Object.keys(COLUMNS)) this[name][id] = rows[name === "cls" ? "class" : name][row];
    });
    for (const id of change.removed) this.flags[id] |= FLAG.gone; // those whose creation was undone have no row
    this.revision = change.revision;
    this.selected = new Set([...this.selected].filter((id) => !(this.flags[id] & FLAG.gone)));
    this.measure();
    return this.refresh(change.blocks);
  }

  /** Fetches changed blocks again that are held; until they are here, what was there before is shown. */
  refresh(places) {
    for (const [bx, by] of places) this.stale.add(`${bx}_${by}`);
    const keys = [...this.stale].filter((key) => this.blocks.has(key) || this.loading.has(key));
    this.stale.clear();
    return Promise.all(keys.map((key) => this.fetchBlock(key)));
  }

  /** The blocks that touch a rectangle of the image; those not here yet are fetched, and `onBlock` is called. */
  blocksIn(left, top, right, bottom, reach = 128) {
    const found = [];
    if (!this.isLoaded) return found; // nothing was predicted yet
    const [bx0, by0] = [left, top].map((v) => Math.max(0, Math.floor((v - reach) / BLOCK_SIZE)));
    const bx1 = Math.floor((Math.min(right, this.width - 1) + reach) / BLOCK_SIZE), by1 = Math.floor((Math.min(bottom, this.height - 1) + reach) / BLOCK_SIZE);
    for (let by = by0; by <= Math.min(by1, Math.floor((this.height - 1) / BLOCK_SIZE)); by++)
      for (let bx = bx0; bx <= Math.min(bx1, Math.floor((this.width - 1) / BLOCK_SIZE)); bx++) {
        const key = `${bx}_${by}`, block = this.blocks.get(key);
        if (block) {
          this.blocks.delete(key); // to the end: the first ones are dropped
          this.blocks.set(key, block);
          found.push(block);
        } else if (!this.loading.has(key)) this.fetchBlock(key).catch(() => {});
      }
    return found;
  }

  async fetchBlock(key) {
    const ticket = {};
    this.loading.set(key, ticket);
    try {
      const block = readBlock(await getBytes(`${this.base}/blocks/${key}.bin${this.query}`));
      if (this.loading.get(key) !== ticket) return; // asked for anew meanwhile
      this.blocks.set(key, block);
      this.dropBlocks();
    } finally {
      if (this.loading.get(key) === ticket) this.loading.delete(key);
    }
    this.onBlock();
  }

  dropBlocks() {
    let bytes = 0;
    for (const block of this.blocks.values()) bytes += block.bytes;
    for (const [key, block] of this.blocks) {
      if (bytes <= CACHE_BYTES || this.blocks.size <= 4) break;
      bytes -= block.bytes;
      this.blocks.delete(key);
    }
  }

  /** [x, y, right, bottom] of an object whose block is here, or null. */
  bound(id) {
    const [x, y] = this.center(id);
    const block = this.blocks.get(`${Math.floor(x / BLOCK_SIZE)}_${Math.floor(y / BLOCK_SIZE)}`);
    const row = block ? block.ids.indexOf(id) : -1;
    return row < 0 ? null : boundObject(block, row);
  }
}
