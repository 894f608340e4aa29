/** Heat: a number from 0 to 1 as a colour for either theme, with a text colour that can be read on it. */

const LIGHT = ["#f1f0fb", "#c3befa", "#7d74e8", "#392c9e"];
const DARK = ["#20212b", "#3d3788", "#7166d9", "#d9d3ff"];
const BLACK = "#000000";
const WHITE = "#ffffff";

/** → CSS colours `{background, text}`. */
export function heat(t) {
  const [light, dark] = [LIGHT, DARK].map((ramp) => between(ramp, t));
  return {
    background: `light-dark(${cssOf(light)}, ${cssOf(dark)})`,
    text: `light-dark(${readableOn(light)}, ${readableOn(dark)})`,
  };
}

export function heatGradient() {
  const stops = LIGHT.map((light, i) => `light-dark(${light}, ${DARK[i]})`);
  return `linear-gradient(90deg, ${stops.join(", ")})`;
}

function between(ramp, t) {
  const place = Math.min(Math.max(t, 0), 1) * (ramp.length - 1);
  const i = Math.min(Math.floor(place), ramp.length - 2);
  const [from, to] = [channels(ramp[i]), channels(ramp[i + 1])];
  return from.map((value, k) => Math.round(value + (to[k] - value) * (place - i)));
}

const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

const cssOf = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

/** Black or white, whichever has more contrast (WCAG): one of them always has 4.5 or more. */
function readableOn(color) {
  const [red, green, blue] = color.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) ? BLACK : WHITE;
}
