// The packed bytes that objects come in: one table of all, and the runs of those in a block of pixels.
// Little endian, as the processors that browsers run on are, so that columns are views and no copies.

// `gone`: deleted, or its creation was undone; a test with any of the two.
export const FLAG = { border: 1, edited: 2, gone: 4 | 128, odd: 8, accepted: 16, drawn: 32 };

// Of columns of an object, runs in a column, and steps between runs, for each width of a block.
const TYPES = [[Uint16Array, Uint8Array, Int8Array], [Uint16Array, Uint8Array, Int16Array], [Uint32Array, Uint32Array, Int32Array]];

const padded = (offset) => (offset + 3) & ~3;

function readHeader(buffer, magic) {
  if (buffer.byteLength < 16) throw new Error("the server's answer is cut off");
  const found = String.fromCharCode(...new Uint8Array(buffer, 0, 4));
  if (found !== magic) throw new Error(`the server's answer begins with ${found} and not with ${magic}`);
  return new Uint32Array(buffer, 4, 3);
}

/** The columns of table.bin: one value for each object, ascending in `id`; deleted ones are in it. */
export function readTable(buffer) {
  const [n, revision, shift] = readHeader(buffer, "MMT1");
  let offset = 16;
  const take = (Type) => {
    const column = new Type(buffer, offset, n);
    offset += column.byteLength;
    return column;
  };
  return { n, revision, shift, id: take(Uint32Array), score: take(Uint16Array), cls: take(Uint8Array), flags: take(Uint8Array), area: take(Uint32Array), x: take(Uint16Array), y: take(Uint16Array) };
}

/** The columns of a block's bytes, and where each object's columns and runs begin in them. */
export function readBlock(buffer) {
  const [n, width, numColumns] = readHeader(buffer, "MMB1");
  let offset = 16;
  const take = (Type, length) => {
    const column = new Type(buffer, offset, length);
    offset = padded(offset + column.byteLength);
    return column;
  };
  const ids = take(Uint32Array, n), layers = take(Uint8Array, n), x0 = take(Int32Array, n), y0 = take(Int32Array, n);
  const [Width, Count, Step] = TYPES[width];
  const widths = take(Width, n), counts = take(Count, numColumns);
  const firstColumn = new Uint32Array(n + 1), firstRun = new Uint32Array(n + 1);
  let column = 0, run = 0, numLayers = 1;
  for (let row = 0; row < n; row++) {
    const end = column + widths[row];
    while (column < end) run += counts[column++];
    firstColumn[row + 1] = column;
    firstRun[row + 1] = run;
    if (layers[row] >= numLayers) numLayers = layers[row] + 1;
  }
  const starts = take(Step, run), ends = take(Step, run);
  return { n, ids, layers, numLayers, x0, y0, widths, counts, starts, ends, firstColumn, firstRun, bytes: buffer.byteLength };
}

/** Calls `visit(x, start, end)` for the runs of one object of a block: rows start to end, the last not included. */
export function visitRuns(block, row, visit) {
  let run = block.firstRun[row], start = block.y0[row], end = start, x = block.x0[row];
  for (let column = block.firstColumn[row]; column < block.firstColumn[row + 1]; column++, x++)
    for (let left = block.counts[column]; left > 0; left--, run++) {
      start += block.starts[run];
      end += block.ends[run];
      visit(x, start, end);
    }
}

/** [x, y, right, bottom] around one object of a block, right and bottom not included. */
export function boundObject(block, row) {
  let top = Infinity, bottom = -Infinity;
  visitRuns(block, row, (x, start, end) => {
    if (start < top) top = start;
    if (end > bottom) bottom = end;
  });
  return [block.x0[row], top, block.x0[row] + block.widths[row], bottom];
}
