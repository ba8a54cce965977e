// Drawn lines and shapes as runs: [x, y, length] is the pixels y to y + length - 1 of column x.

/** Runs of a brush of `radius` along a line, inside an image of width x height pixels. */
export function runsOfStroke(points, radius, width, height) {
  const columns = new Map(); // x -> [start, end] of each disc there
  const step = Math.max(radius / 3, 0.5);
  const stamp = (cx, cy) => {
    for (let x = Math.max(0, Math.ceil(cx - radius - 0.5)); x <= Math.min(width - 1, cx + radius - 0.5); x++) {
      const half = Math.sqrt(Math.max(0, radius ** 2 - (x + 0.5 - cx) ** 2));
      const start = Math.max(0, Math.ceil(cy - half - 0.5)), end = Math.min(height, Math.floor(cy + half - 0.5) + 1);
      if (end > start) columns.get(x)?.push([start, end]) ?? columns.set(x, [[start, end]]);
    }
  };
  points.forEach(([x, y], index) => {
    const [fromX, fromY] = points[Math.max(0, index - 1)], steps = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY) / step));
    for (let i = 1; i <= steps; i++) stamp(fromX + ((x - fromX) * i) / steps, fromY + ((y - fromY) * i) / steps);
  });
  return [...columns].sort(([a], [b]) => a - b).flatMap(([x, parts]) => join(parts).map(([start, end]) => [x, start, end - start]));
}

function join(parts) {
  const joined = [];
  for (const [start, end] of parts.sort((a, b) => a[0] - b[0])) {
    const last = joined.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], end);
    else joined.push([start, end]);
  }
  return joined;
}

/** Runs of the pixels whose middles lie in a closed shape (even-odd), inside an image of width x height pixels. */
export function runsOfShape(points, width, height) {
  const xs = points.map(([x]) => x), runs = [];
  for (let x = Math.max(0, Math.floor(Math.min(...xs))); x < Math.min(width, Math.ceil(Math.max(...xs))); x++) {
    const crossings = [];
    points.forEach(([bx, by], index) => {
      const [ax, ay] = points.at(index - 1), middle = x + 0.5;
      if (ax <= middle !== bx <= middle) crossings.push(ay + ((middle - ax) / (bx - ax)) * (by - ay));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const start = Math.max(0, Math.ceil(crossings[i] - 0.5)), end = Math.min(height, Math.ceil(crossings[i + 1] - 0.5));
      if (end > start) runs.push([x, start, end - start]);
    }
  }
  return runs;
}

/** A test whether a place lies in a closed shape; rectangles are shapes of four points. */
export function insideOf(points) {
  const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  return (x, y) => {
    if (x < left || x > right || y < top || y > bottom) return false;
    let isInside = false;
    for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
      const [ax, ay] = points[i], [bx, by] = points[j];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) isInside = !isInside;
    }
    return isInside;
  };
}
