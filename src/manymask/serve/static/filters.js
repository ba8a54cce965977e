// The filters: score and size as two-ended sliders over their histograms, classes, flags; and what colours tell.

import { cssOfClass } from "./colours.js";
import { clamp, find, formatCount, formatNumber, make, makeSvg, oncePerFrame } from "./dom.js";
import { FLAG } from "./packed.js";

const BINS = 48, STEPS = 1000;

/** A two-ended slider over a histogram: two range inputs, of which only the thumbs take the pointer. */
class Range {
  constructor(host, name, format, onChange) {
    Object.assign(this, { format, onChange });
    this.bars = Array.from({ length: BINS }, (_, i) => makeSvg("rect", { x: i + 0.1, width: 0.8 }));
    const histogram = makeSvg("svg", { viewBox: `0 0 ${BINS} 20`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...this.bars);
    this.inputs = ["lowest", "highest"].map((end) =>
      make("input", { type: "range", min: 0, max: STEPS, value: end === "lowest" ? 0 : STEPS, ariaLabel: `${end} ${name}`, oninput: () => this.move(end) }));
    this.output = make("output");
    host.replaceChildren(make("header", {}, make("b", { textContent: host.dataset.title }), this.output), make("div", { className: "range" }, histogram, ...this.inputs));
  }

  /** Shows the numbers in each bin, and places the ends at shares of the range. */
  fill(counts, low = 0, high = 1) {
    const most = Math.max(1, ...counts);
    // Roots: a bin with one object shows beside one with thousands.
    counts.forEach((count, i) => {
      const height = count ? Math.max(1, 19 * Math.sqrt(count / most)) : 0;
      this.bars[i].setAttribute("y", 20 - height);
      this.bars[i].setAttribute("height", height);
    });
    [this.inputs[0].value, this.inputs[1].value] = [low, high].map((share) => Math.round(share * STEPS));
    this.write();
  }

  move(end) {
    const [low, high] = this.inputs;
    if (end === "lowest") low.value = Math.min(low.value, high.value);
    else high.value = Math.max(low.value, high.value);
    this.write();
    this.onChange();
  }

  get shares() {
    return this.inputs.map((input) => input.value / STEPS);
  }

  write() {
    const [low, high] = this.shares;
    this.bars.forEach((bar, i) => bar.classList.toggle("out", (i + 1) / BINS <= low || i / BINS >= high));
    this.inputs[0].style.zIndex = low > 0.9 ? 2 : 1; // or the lower end could not be moved back from the upper one
    const texts = this.format(low, high);
    this.output.textContent = low <= 0 && high >= 1 ? "all" : `${texts[0]} – ${texts[1]}`;
    this.inputs.forEach((input, i) => input.setAttribute("aria-valuetext", texts[i]));
  }
}

export class Filters {
  constructor(onFilter, onColour) {
    this.objects = null;
    this.classes = [];
    this.hidden = new Set(); // names of classes, whichever image is shown
    this.pixelSize = null;
    // At once in the next frame, however fast a slider moves.
    this.change = oncePerFrame(() => this.objects && (this.apply(), onFilter()));
    this.score = new Range(find("filter-score"), "score", (...ends) => ends.map((end) => end.toFixed(2)), this.change);
    this.size = new Range(find("filter-size"), "size", (...ends) => ends.map((end) => this.describeArea(this.areaAt(end))), this.change);
    for (const id of ["only-edited", "only-odd", "hide-border"]) find(id).onchange = this.change;
    find("reset-filters").onclick = () => this.reset();
    find("colour-by").onchange = () => onColour(find("colour-by").value);
    find("opacity").oninput = this.change;
  }

  areaAt(share) {
    const [least, most] = this.objects?.areaRange ?? [1, 1];
    return least * (most / least) ** share;
  }

  describeArea(area) {
    return this.pixelSize ? `${formatNumber(area * this.pixelSize ** 2)} µm²` : `${formatNumber(area)} px`;
  }

  /** Shows the filter of some objects. */
  show(objects, classes, pixelSize) {
    Object.assign(this, { objects, classes, pixelSize });
    this.update();
  }

  /** Reads histograms and classes anew, and leaves the settings. */
  update() {
    const { objects } = this, scores = new Array(BINS).fill(0), sizes = new Array(BINS).fill(0);
    const [least, most] = objects.areaRange, base = Math.log(least), span = Math.log(most) - base || 1;
    for (let id = 1; id < objects.size; id++) {
      if (objects.flags[id] & FLAG.gone) continue;
      scores[Math.min(BINS - 1, (objects.score[id] * BINS) >> 16)] += 1;
      sizes[clamp(Math.floor(((Math.log(objects.area[id]) - base) / span) * BINS), 0, BINS - 1)] += 1;
    }
    this.score.fill(scores, ...this.score.shares);
    this.size.fill(sizes, ...this.size.shares);
    this.listClasses();
    this.apply();
  }

  listClasses() {
    const rows = this.classes.map(({ name }, index) => {
      const box = make("input", { type: "checkbox", checked: !this.hidden.has(name), onchange: () => this.toggle(name, box.checked) });
      const swatch = make("i", { className: "swatch" });
      swatch.style.background = cssOfClass(index);
      const label = make("label", { title: "Double click: only this class" }, box, swatch, make("span", { textContent: name }), make("small", { textContent: formatCount(this.objects.numByClass[index]) }));
      label.ondblclick = () => this.showOnly(name);
      return label;
    });
    find("filter-classes").replaceChildren(...rows);
    find("class-filter").hidden = rows.length < 2;
  }

  toggle(name, isOn) {
    if (isOn) this.hidden.delete(name);
    else this.hidden.add(name);
    this.change();
  }

  showOnly(shown) {
    this.hidden = new Set(this.classes.map(({ name }) => name).filter((name) => name !== shown));
    this.listClasses();
    this.change();
  }

  reset() {
    for (const id of ["only-edited", "only-odd", "hide-border"]) find(id).checked = false;
    for (const range of [this.score, this.size]) {
      [range.inputs[0].value, range.inputs[1].value] = [0, STEPS];
      range.write();
    }
    this.hidden.clear();
    if (this.objects) this.listClasses();
    this.change();
  }

  /** Writes the settings into the objects' filter, and colours anew. */
  apply() {
    const { objects } = this, { filter } = objects, [low, high] = this.score.shares, [small, large] = this.size.shares;
    filter.score = [Math.round(low * 65535), Math.round(high * 65535)];
    // The ends are all, whatever rounding makes of them.
    filter.area = [small > 0 ? this.areaAt(small) : 0, large < 1 ? this.areaAt(large) : Infinity];
    filter.hiddenClasses = new Set(this.classes.flatMap(({ name }, index) => (this.hidden.has(name) ? [index] : [])));
    filter.editedOnly = find("only-edited").checked;
    filter.oddOnly = find("only-odd").checked;
    filter.hideBorder = find("hide-border").checked;
    filter.opacity = find("opacity").value / 100;
    objects.refilter();
    this.count();
  }

  count() {
    const { shown, number } = this.objects;
    find("shown").textContent = formatCount(shown);
    find("all").textContent = formatCount(number);
    find("reset-filters").hidden = shown === number;
  }

  /** The filter as the server's downloads understand it. */
  get query() {
    const { filter } = this.objects, query = new URLSearchParams();
    if (filter.score[0] > 0) query.set("min_score", filter.score[0] / 65535);
    if (filter.score[1] < 65535) query.set("max_score", filter.score[1] / 65535);
    if (filter.area[0] > 0) query.set("min_area", Math.ceil(filter.area[0]));
    if (filter.area[1] < Infinity) query.set("max_area", Math.floor(filter.area[1]));
    if (filter.hiddenClasses.size) query.set("classes", this.classes.filter((_, i) => !filter.hiddenClasses.has(i)).map(({ id }) => id).join(","));
    if (filter.editedOnly) query.set("edited", "true");
    if (filter.hideBorder) query.set("border", "false");
    if (filter.oddOnly) query.set("odd", "true");
    return query;
  }
}
