// Signed values as colours: blue below zero, orange above, the background at zero; and the text that can be read on it.

export type Theme = "light" | "dark";
export type RGB = [number, number, number];

interface Palette {
  zero: RGB;
  negative: [RGB, RGB];
  positive: [RGB, RGB];
  ink: RGB;
  paper: RGB;
}

/** From zero over the middle to the end of each arm. */
const PALETTES: Record<Theme, Palette> = {
  light: {
    zero: [246, 245, 241],
    negative: [
      [121, 169, 214],
      [22, 78, 140],
    ],
    positive: [
      [240, 178, 108],
      [176, 84, 8],
    ],
    ink: [0, 0, 0],
    paper: [255, 255, 255],
  },
  dark: {
    zero: [38, 40, 46],
    negative: [
      [52, 104, 160],
      [134, 190, 240],
    ],
    positive: [
      [160, 92, 30],
      [250, 186, 110],
    ],
    ink: [0, 0, 0],
    paper: [255, 255, 255],
  },
};

/** The colour of a value in [−1, 1]; beyond is the end of the scale, NaN is null. */
export function diverging(value: number, theme: Theme): RGB | null {
  if (Number.isNaN(value)) return null;
  const palette = PALETTES[theme];
  const size = Math.min(1, Math.abs(value));
  const [middle, end] = value < 0 ? palette.negative : palette.positive;
  return size < 0.5 ? mix(palette.zero, middle, 2 * size) : mix(middle, end, 2 * size - 1);
}

function mix(from: RGB, to: RGB, share: number): RGB {
  return [0, 1, 2].map((channel) => Math.round(from[channel] + share * (to[channel] - from[channel]))) as RGB;
}

export function css([red, green, blue]: RGB): string {
  return `rgb(${red} ${green} ${blue})`;
}

/** Dark or light text, whichever stands out more from this background. */
export function textOn(background: RGB, theme: Theme): RGB {
  const { ink, paper } = PALETTES[theme];
  return contrast(ink, background) >= contrast(paper, background) ? ink : paper;
}

/** The contrast ratio of WCAG 2.2 between two colours, from 1 to 21. */
export function contrast(one: RGB, other: RGB): number {
  const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
}

function luminance(colour: RGB): number {
  const [red, green, blue] = colour.map((channel) => {
    const share = channel / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

export type ScaleKind = "all" | "step" | "log";

/** Values to [−1, 1], symmetric, zero in the middle; "log" shows six decades below the largest. */
export function scaled(value: number, largest: number, kind: ScaleKind): number {
  if (largest === 0 || value === 0) return Number.isNaN(value) ? value : 0;
  if (kind !== "log") return value / largest;
  return Math.sign(value) * Math.max(0.02, 1 + Math.log10(Math.abs(value) / largest) / 6);
}

/** The largest magnitude among finite values. */
export function largest(values: ArrayLike<number>, from = 0, to = values.length): number {
  let found = 0;
  for (let index = from; index < to; index++) {
    const size = Math.abs(values[index]);
    if (size > found && size !== Number.POSITIVE_INFINITY) found = size;
  }
  return found;
}
