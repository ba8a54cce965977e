// Colours, as 32-bit pixels of a canvas: red in the lowest byte, alpha in the highest.

/** Okabe and Ito's colours, which colour-blind people tell apart; the same as in pictures and files (core/palette.py). */
export const PALETTE = [[240, 228, 66], [0, 158, 115], [213, 94, 0], [86, 180, 233], [230, 159, 0], [0, 114, 178], [204, 121, 167]];

// Viridis, dark to bright, without its darkest part, which does not show on dark images.
const RAMP = [[59, 82, 139], [44, 114, 142], [33, 145, 140], [40, 174, 128], [94, 201, 98], [173, 220, 48], [253, 231, 37]];

const pack = ([red, green, blue]) => red | (green << 8) | (blue << 16);

export const CLASS_PIXELS = PALETTE.map(pack);
export const SELECTED_PIXEL = pack([255, 255, 255]);
export const toCss = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
export const cssOfClass = (index) => toCss(PALETTE[index % PALETTE.length]);

/** 256 pixels from low to high values. */
export const RAMP_PIXELS = Array.from({ length: 256 }, (_, i) => {
  const place = (i / 255) * (RAMP.length - 1), low = Math.min(Math.floor(place), RAMP.length - 2), part = place - low;
  return pack(RAMP[low].map((value, channel) => Math.round(value + (RAMP[low + 1][channel] - value) * part)));
});

const EDITED = [CLASS_PIXELS[3], CLASS_PIXELS[2], CLASS_PIXELS[1]]; // as predicted, edited, accepted

/** A function from an object's id to its pixel without alpha, for what colours are to tell. */
export function chooseColour(by, objects) {
  const { score, cls, flags, area } = objects;
  if (by === "score") return (id) => RAMP_PIXELS[score[id] >> 8];
  if (by === "size") {
    const low = Math.log(objects.areaRange[0] || 1), span = Math.log(objects.areaRange[1] || 2) - low || 1;
    return (id) => RAMP_PIXELS[Math.max(0, Math.min(255, Math.round(((Math.log(area[id]) - low) / span) * 255)))];
  }
  if (by === "edited") return (id) => EDITED[flags[id] & 2 ? 1 : flags[id] & 16 ? 2 : 0];
  if (by === "id") return (id) => CLASS_PIXELS[(id * 2654435761 >>> 8) % 7]; // neighbours mostly differ
  return (id) => CLASS_PIXELS[cls[id] % 7];
}
