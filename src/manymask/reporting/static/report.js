(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const MAX_ZOOM = 40; // screen pixels an image pixel
  const SILENT = new Set(["found", "correct", "ignored"]); // kinds that are no errors
  const find = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(find(id).textContent);
  const stage = find("stage"), canvas = find("canvas"), tip = find("tip");
  const thumbnails = [...find("thumbnails").querySelectorAll("button")];
  const page = read("page");
  const hidden = { kind: new Set(), class: new Set() }; // numbers of kinds and of classes, as clicked in the legend

  let current = -1, image = null;
  let scale = 1, left = 0, top = 0; // screen = scale * image + (left, top)
  let isFit = true;

  function make(name, attributes, parent) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  }

  // The image in view --------------------------------------------------------------------------------------------

  function show(index, box) {
    current = (index + thumbnails.length) % thumbnails.length;
    image = read(`image-${current}`);
    canvas.replaceChildren();
    canvas.setAttribute("aria-label", `${image.name}: ${image.truth.length} instances, ${image.predictions.length} predictions`);
    const world = make("g", { id: "world" }, canvas);
    make("image", { href: image.picture, width: image.width, height: image.height, preserveAspectRatio: "none" }, world);
    for (const group of ["truth", "predictions"]) { // predictions on top: truth shows where the two differ
      const outlines = make("g", { class: group, transform: "scale(.5) translate(.5 .5)" }, world);
      make("path", { class: "halo" }, outlines);
      image[group].forEach(([path], row) => make("path", { d: path, "data-row": row, "fill-rule": "evenodd" }, outlines));
    }
    thumbnails.forEach((button, i) => (i === current ? button.setAttribute("aria-current", "true") : button.removeAttribute("aria-current")));
    scrollTo(thumbnails[current].parentElement);
    find("name").textContent = image.name;
    find("place").textContent = `${current + 1} of ${thumbnails.length}`;
    paint();
    if (box) frame(box);
    else fit();
  }

  function scrollTo(item) {
    const list = item.parentElement; // the list only: the page stays where it is
    list.scrollTo({ left: item.offsetLeft - (list.clientWidth - item.clientWidth) / 2, top: item.offsetTop - (list.clientHeight - item.clientHeight) / 2 });
  }

  // Colours, and what is shown ------------------------------------------------------------------------------------

  function paint() {
    const by = find("color-by").value, onlyErrors = find("only-errors").checked;
    for (const group of ["truth", "predictions"]) {
      const outlines = canvas.querySelector(`.${group}`), halo = [];
      outlines.style.display = find(`show-${group}`).checked ? "" : "none";
      image[group].forEach((entry, row) => {
        const [path, label, kind] = entry, key = by === "kind" ? kind : label - 1;
        const element = outlines.children[row + 1];
        const isShown = !hidden[by].has(key) && !(onlyErrors && SILENT.has(page.kinds[kind][0]));
        element.style.display = isShown ? "" : "none";
        element.style.stroke = (by === "kind" ? page.kinds[kind] : page.classes[label - 1])[1];
        if (isShown) halo.push(path);
      });
      outlines.firstChild.setAttribute("d", halo.join(""));
    }
    hideTip();
    drawLegend(by);
  }

  function drawLegend(by) {
    const names = by === "kind" ? page.kinds : page.classes;
    const counts = names.map(() => ({ truth: 0, predictions: 0 }));
    for (const group of ["truth", "predictions"])
      for (const [, label, kind] of image[group]) counts[by === "kind" ? kind : label - 1][group] += 1;
    const chips = names.flatMap(([name, color], key) => {
      const count = counts[key];
      if (!count.truth && !count.predictions) return [];
      const chip = document.createElement("button");
      chip.type = "button";
      chip.setAttribute("aria-pressed", String(!hidden[by].has(key)));
      chip.title = `${name}: ${count.truth} in the ground truth, ${count.predictions} predicted. Click to hide or show.`;
      chip.append(name);
      for (const group of ["truth", "predictions"]) if (count[group]) chip.append(drawSample(color, group === "truth"), String(count[group]));
      chip.onclick = () => {
        if (!hidden[by].delete(key)) hidden[by].add(key);
        paint();
        [...find("legend").children].find((other) => other.dataset.key === chip.dataset.key)?.focus();
      };
      chip.dataset.key = key;
      return [chip];
    });
    find("legend").replaceChildren(...chips);
  }

  function drawSample(color, isDashed) {
    const svg = make("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" });
    make("path", { class: "under", d: "M0 4h26" }, svg);
    make("path", { class: isDashed ? "dashed" : "solid", d: "M0 4h26", stroke: color }, svg);
    return svg;
  }

  // Zoom and pan --------------------------------------------------------------------------------------------------

  const fitScale = () => Math.min(stage.clientWidth / image.width, stage.clientHeight / image.height);

  function fit() {
    scale = fitScale();
    left = (stage.clientWidth - scale * image.width) / 2;
    top = (stage.clientHeight - scale * image.height) / 2;
    place();
  }

  function frame([x1, y1, x2, y2]) {
    const side = 4 * Math.max(x2 - x1, y2 - y1, 8);
    scale = clamp(Math.min(stage.clientWidth, stage.clientHeight) / side, fitScale(), MAX_ZOOM);
    left = stage.clientWidth / 2 - (scale * (x1 + x2)) / 2;
    top = stage.clientHeight / 2 - (scale * (y1 + y2)) / 2;
    place();
  }

  function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const before = scale;
    scale = clamp(scale * factor, fitScale(), Math.max(MAX_ZOOM, fitScale()));
    left = x - ((x - left) * scale) / before;
    top = y - ((y - top) * scale) / before;
    place();
  }

  function place() {
    isFit = scale <= fitScale() * 1.001;
    left = keepInside(left, stage.clientWidth, scale * image.width);
    top = keepInside(top, stage.clientHeight, scale * image.height);
    find("world").setAttribute("transform", `translate(${left} ${top}) scale(${scale})`);
    find("world").firstChild.classList.toggle("sharp", scale >= 4);
    find("zoom").textContent = `${Math.round(scale * 100)} %`;
    canvas.style.setProperty("--width", `${clamp((image.diameter * scale) / 12, 0.9, 2)}px`);
    stage.classList.toggle("zoomed", !isFit);
    hideTip();
  }

  function keepInside(start, room, length) {
    return length <= room ? (room - length) / 2 : clamp(start, room - length, 0);
  }

  function clamp(value, low, high) {
    return Math.min(Math.max(value, low), high);
  }

  function locate(event) {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  const pointers = new Map();
  let travel = 0, lastScroll = -1000;
  window.addEventListener("scroll", () => (lastScroll = performance.now()), { passive: true });

  stage.addEventListener("wheel", (event) => {
    const isPassing = performance.now() - lastScroll < 250; // the page is being scrolled past
    if (isPassing || (event.deltaY > 0 && isFit)) return;
    event.preventDefault();
    const { x, y } = locate(event);
    zoom(Math.exp(-clamp(event.deltaY * (event.deltaMode === 1 ? 30 : 1), -200, 200) / 400), x, y);
  }, { passive: false });

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, locate(event));
    stage.setPointerCapture(event.pointerId);
    travel = pointers.size > 1 ? 100 : 0;
  });

  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId), now = locate(event);
    if (!before) {
      if (event.pointerType === "mouse") showTip(event);
      return;
    }
    travel += Math.hypot(now.x - before.x, now.y - before.y);
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    pointers.set(event.pointerId, now);
    if (others.length) {
      const [other] = others, distance = (point) => Math.max(Math.hypot(point.x - other.x, point.y - other.y), 1);
      zoom(distance(now) / distance(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else if (travel > 3 && !isFit) {
      stage.classList.add("dragging");
      left += now.x - before.x;
      top += now.y - before.y;
      place();
    }
  });

  for (const name of ["pointerup", "pointercancel"])
    stage.addEventListener(name, (event) => {
      if (pointers.delete(event.pointerId) && name === "pointerup" && travel <= 6) showTip(event);
      stage.classList.remove("dragging");
    });
  stage.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hideTip());
  stage.addEventListener("dblclick", fit);
  new ResizeObserver(() => image && (isFit ? fit() : place())).observe(stage);

  // What lies under the pointer -----------------------------------------------------------------------------------

  function showTip(event) {
    hideTip();
    const hits = document.elementsFromPoint(event.clientX, event.clientY).filter((element) => element.dataset?.row !== undefined);
    if (!hits.length) return;
    for (const hit of hits) hit.classList.add("hot");
    const lines = hits.slice(0, 5).map(describe);
    if (hits.length > 5) lines.push(document.createTextNode(`and ${hits.length - 5} more`));
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const { x, y } = locate(event);
    tip.style.left = `${x + 16 + tip.offsetWidth <= stage.clientWidth - 8 ? x + 16 : Math.max(8, x - 16 - tip.offsetWidth)}px`;
    tip.style.top = `${clamp(y + 14, 8, Math.max(8, stage.clientHeight - tip.offsetHeight - 8))}px`;
  }

  function describe(element) {
    const isTruth = element.parentElement.classList.contains("truth"), row = Number(element.dataset.row);
    const [, label, kind, iou, score] = image[isTruth ? "truth" : "predictions"][row];
    const block = document.createElement("div"), head = document.createElement("b"), text = document.createElement("span");
    const swatch = document.createElement("i");
    swatch.style.background = page.kinds[kind][1];
    head.append(swatch, `${isTruth ? "Ground truth" : "Prediction"} ${row + 1}: ${page.kinds[kind][0]}`);
    const facts = [page.classes[label - 1][0], ...(isTruth ? [] : [`score ${score.toFixed(2)}`]), `${isTruth ? "best " : ""}IoU ${iou.toFixed(2)}`];
    text.textContent = facts.join(" · ");
    block.append(head, text);
    return block;
  }

  function hideTip() {
    tip.hidden = true;
    for (const element of canvas.querySelectorAll(".hot")) element.classList.remove("hot");
  }

  // Controls ------------------------------------------------------------------------------------------------------

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-image]");
    if (!button) return;
    show(Number(button.dataset.image), button.dataset.box?.split(" ").map(Number));
    if (button.dataset.box) find("browser").scrollIntoView({ block: "start" });
  });
  find("previous").onclick = () => show(current - 1);
  find("next").onclick = () => show(current + 1);
  find("zoom-in").onclick = () => zoom(1.5);
  find("zoom-out").onclick = () => zoom(1 / 1.5);
  find("fit").onclick = fit;
  for (const id of ["show-truth", "show-predictions", "only-errors", "color-by"]) find(id).onchange = paint;

  const keys = {
    ArrowLeft: () => show(current - 1), ArrowRight: () => show(current + 1), g: () => find("show-truth").click(),
    p: () => find("show-predictions").click(), e: () => find("only-errors").click(), "+": () => zoom(1.5), "=": () => zoom(1.5),
    "-": () => zoom(1 / 1.5), 0: fit, Escape: hideTip,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("select, .scroll")) return;
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });

  show(0);
})();
