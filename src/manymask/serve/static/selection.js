// What is selected: one object's numbers, or counts of many; and what is under the pointer.

import { getJson } from "./api.js";
import { cssOfClass } from "./colours.js";
import { clamp, countOf, find, formatCount, formatNumber, make } from "./dom.js";
import { FLAG } from "./packed.js";

const STATES = [[FLAG.edited, "edited"], [FLAG.accepted, "accepted"], [FLAG.drawn, "drawn"], [FLAG.border, "touches the border"], [FLAG.odd, "unusual size"]];

export function describeFlags(flags) {
  return STATES.filter(([flag]) => flags & flag).map(([, word]) => word).join(", ");
}

/** Facts of an object that the table has, without asking the server. */
function listFacts(objects, id, { classes, pixelSize }) {
  const area = objects.area[id], name = classes[objects.cls[id]]?.name ?? `class ${objects.cls[id]}`;
  const size = pixelSize ? `${formatNumber(area * pixelSize ** 2)} µm²` : `${formatCount(area)} px`;
  return { name, score: objects.flags[id] & FLAG.drawn ? "drawn" : (objects.score[id] / 65535).toFixed(2), size };
}

const tip = () => find("tip");

/** Shows the class, score and size of an object beside the pointer. */
export function showTip(objects, id, place, context) {
  const element = tip();
  element.hidden = !id;
  if (!id) return;
  const { name, score, size } = listFacts(objects, id, context);
  const swatch = make("i", { className: "swatch" });
  swatch.style.background = cssOfClass(objects.cls[id]);
  element.replaceChildren(swatch, `${name} ${score}`, make("small", { textContent: `${size} · object ${id}` }));
  const { clientWidth, clientHeight } = element.parentElement, [x, y] = place;
  element.style.transform = `translate(${clamp(x + 14, 4, clientWidth - 190)}px, ${clamp(y + 16, 4, clientHeight - 60)}px)`;
}

/** Fills the panel with what is selected. */
export function showSelection(objects, context) {
  const ids = [...(objects?.selected ?? [])], panel = find("selected-facts");
  find("selection").hidden = !ids.length;
  find("selection-title").textContent = ids.length === 1 ? `Object ${ids[0]}` : `${formatCount(ids.length)} selected`;
  for (const button of document.querySelectorAll("[data-needs]")) button.disabled = ids.length < Number(button.dataset.needs);
  if (ids.length === 1) showOne(objects, ids[0], panel, context);
  else if (ids.length) panel.replaceChildren(facts(summarize(objects, ids, context)));
}

function facts(rows) {
  return make("dl", {}, ...rows.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
}

function summarize(objects, ids, { classes, pixelSize }) {
  const counts = new Map();
  let area = 0, score = 0;
  for (const id of ids) {
    area += objects.area[id];
    score += objects.score[id] / 65535;
    counts.set(objects.cls[id], (counts.get(objects.cls[id]) ?? 0) + 1);
  }
  const scale = pixelSize ? pixelSize ** 2 : 1, unit = pixelSize ? "µm²" : "px";
  const rows = [...counts].sort((a, b) => b[1] - a[1]).map(([index, count]) => [classes[index]?.name ?? `class ${index}`, formatCount(count)]);
  return [...(classes.length > 1 ? rows : []), ["mean score", (score / ids.length).toFixed(2)], ["mean size", `${formatNumber((area / ids.length) * scale)} ${unit}`], ["together", `${formatNumber(area * scale)} ${unit}`]];
}

async function showOne(objects, id, panel, context) {
  const { name, score, size } = listFacts(objects, id, context), [x, y] = objects.center(id), state = describeFlags(objects.flags[id]);
  const known = [["class", name], ["score", score], ["size", size], ["place", `${x}, ${y}`], ...(state ? [["state", state]] : [])];
  const more = make("details", {}, make("summary", { textContent: "All measurements" }));
  more.ontoggle = async () => {
    if (!more.open || more.children.length > 1) return;
    try {
      const numbers = await getJson(`${objects.base}/objects/${id}${objects.query}`);
      more.append(facts(Object.entries(numbers).map(([key, value]) => [key.replaceAll("_", " "), typeof value === "number" ? formatNumber(value) : String(value ?? "–")])));
    } catch (error) {
      more.append(make("p", { textContent: error.message }));
    }
  };
  panel.replaceChildren(facts(known), more);
}

/** Classes as buttons with their keys, for the selection and for what is drawn. */
export function listClassButtons(classes, onChoose) {
  find("class-buttons").hidden = classes.length < 2;
  find("class-buttons").replaceChildren(...classes.slice(0, 9).map(({ name }, index) => {
    const swatch = make("i", { className: "swatch" });
    swatch.style.background = cssOfClass(index);
    return make("button", { type: "button", title: `Class ${name} (${index + 1})`, onclick: () => onChoose(index) }, swatch, name, make("kbd", { textContent: String(index + 1) }));
  }));
}
