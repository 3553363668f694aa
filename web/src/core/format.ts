// Numbers and characters as they are read: significant digits, a true minus sign, nothing that can hide or move text.

/** A number with this many significant digits; short decimals that are exact stay short. As bptt trace prints them. */
export function number(value: number, digits = 4): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  const power = Number(exponent);
  const inFull = power >= -3 && power < Math.max(digits, 4);
  const text = inFull ? value.toFixed(Math.max(0, digits - 1 - power)) : mantissa;
  const suffix = inFull ? "" : `e${power}`;
  const short = text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  const kept = Number(short + suffix) === value ? short : text;
  return (kept + suffix).replace(/-/g, "−");
}

/** The number itself, as JavaScript, Python and TeX read it back to the bit. */
export function exact(value: number, single: boolean): string {
  if (!single || !Number.isFinite(value)) return String(value);
  for (let digits = 1; digits <= 9; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(value);
}

/** A share in percent, kept on one line. */
export function percent(share: number): string {
  return `${number(100 * share, share < 0.1 ? 2 : 3)}\u00a0%`;
}

const NAMED: Record<string, string> = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };
const LONGEST = 12;

/** A symbol as something that can be seen and cannot reorder, hide or stretch what stands beside it. */
export function visible(symbol: string): string {
  if (NAMED[symbol]) return NAMED[symbol];
  const characters = Array.from(symbol.slice(0, 4 * LONGEST));
  const shown = characters.slice(0, LONGEST).map((character) => {
    if (character === " " && characters.length > 1) return " ";
    if (NAMED[character]) return NAMED[character];
    return /^[\p{L}\p{N}\p{P}\p{S}]$/u.test(character)
      ? character
      : `U+${(character.codePointAt(0) as number).toString(16).toUpperCase().padStart(4, "0")}`;
  });
  return shown.join("") + (characters.length > LONGEST ? "…" : "") || "∅";
}

/** A longer text in the same manner, cut to `most` characters. */
export function visibleText(text: string, most: number): string {
  const characters = Array.from(text.slice(0, 2 * most));
  const shown = characters.slice(0, most).map((character) => (character === " " ? " " : visible(character)));
  return shown.join("") + (characters.length > most ? "…" : "");
}

export function plural(count: number, what: string): string {
  return `${count.toLocaleString("en")}\u00a0${what}${count === 1 ? "" : "s"}`;
}
