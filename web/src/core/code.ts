// The whole of it in NumPy, written from the sheet: the lines that a number came from can be lit.

import { FUNCTIONS } from "./functions.ts";
import { type Cell, children, type Expression, functionOf, isName, type Name, termsOf } from "./sheet.ts";
import { type Loss, type Tape, topLayers } from "./tape.ts";

export interface CodeLine {
  text: string;
  tag: string;
  side: "A" | "B" | "";
  /** The quantities that this line makes, the first to be asked about on a click. */
  makes: string[];
  /** Whether they belong to the network around the cell. */
  isAround: boolean;
}

const LOSSES: Record<Loss, [string, string, string]> = {
  cross_entropy: ["softmax(o[t])", "-np.log(y_hat[t] @ y[t])", "w[t] * (y_hat[t] - y[t])"],
  binary_cross_entropy: [
    "1 / (1 + np.exp(-o[t]))",
    "-np.log(np.where(y[t], y_hat[t], 1 - y_hat[t])).sum()",
    "w[t] * (y_hat[t] - y[t])",
  ],
  squared_error: ["o[t]", "((y_hat[t] - y[t]) ** 2).sum()", "2 * w[t] * (y_hat[t] - y[t])"],
};

const [SUM, TIMES, POWER, ATOM] = [1, 2, 3, 4];

/** An expression in NumPy, with names as `named` writes them. */
export function numpyOf(
  cell: Cell,
  e: Expression,
  named: (name: Name) => string,
  size: (letter: string) => string = (letter) => letter,
): string {
  const write = (part: Expression, least = SUM): string => {
    const [text, binds] = written(part);
    return binds < least ? `(${text})` : text;
  };
  const written = (part: Expression): [string, number] => {
    if (typeof part === "number") return [String(part), part < 0 ? SUM : ATOM];
    switch (part[0]) {
      case "n":
      case "d":
        return [named(part), ATOM];
      case "size":
        return [size(part[1]), ATOM];
      case "T":
        return [`${write(part[1], ATOM)}.T`, ATOM];
      case "²":
        return [`${write(part[1], ATOM)} ** 2`, POWER];
      case "@":
        if (isTurnedRow(cell, part[1])) return [`np.outer(${write(part[1][1])}, ${write(part[2])})`, ATOM];
        return [`${write(part[1], POWER)} @ ${write(part[2], POWER)}`, TIMES];
      case "*":
        return [
          children(part)
            .map((factor) => write(factor, POWER))
            .join(" * "),
          TIMES,
        ];
      case "/":
        return [`${write(part[1], POWER)} / ${write(part[2], POWER)}`, TIMES];
      case "+": {
        const terms = termsOf(part).map(([sign, term], place) => {
          const before = sign < 0 ? (place > 0 ? " - " : "-") : place > 0 ? " + " : "";
          return before + write(term, TIMES);
        });
        return [terms.join(""), SUM];
      }
      default: {
        const { numpy } = FUNCTIONS[functionOf(cell, part[1] as string)];
        const given = children(part).map((argument) => write(argument, numpy.includes("-{") ? ATOM : SUM));
        const text = numpy.replace(/\{(\d)\}/g, (_, place) => given[Number(place)]);
        return [text, /^(np\.\w+\(.*\)|\(.*\))$/.test(numpy) && !numpy.includes(" / ") ? ATOM : SUM];
      }
    }
  };
  return write(e);
}

function isTurnedRow(cell: Cell, e: Expression): e is ["T", Name] {
  return Array.isArray(e) && e[0] === "T" && isName(e[1]) && cell.shapes[e[1][1]] === undefined;
}

export function code(tape: Tape, position: number): CodeLine[] {
  const layer = tape.layers[position];
  const { cell, arrays } = layer;
  const isReverse = layer.direction === "reverse";
  const isUnderOutput = layer.above === "output" && topLayers(tape).length === 1;
  const own = tape.loss ? LOSSES[tape.loss] : ["", "", "..."];
  const named = ([kind, name, step]: Name) => {
    const letter = kind === "d" ? `d${name}` : name;
    if (step === undefined) return letter in cell.constants ? String(cell.constants[letter]) : letter;
    const shift = isReverse ? -step : step;
    return `${letter}[t${shift === 0 ? "" : shift > 0 ? " + 1" : " - 1"}]`;
  };
  const numpy = (e: Expression) => numpyOf(cell, e, named);
  const line = (side: CodeLine["side"], text: string, tag = "", makes: string[] = [], isAround = false): CodeLine => ({
    side,
    text,
    tag,
    makes,
    isAround,
  });
  const loop = (isBackwards: boolean) =>
    isBackwards ? "for t in reversed(range(1, T + 1)):" : "for t in range(1, T + 1):";
  const slopes = [...cell.steps].reverse().map(({ name }) => {
    const { tag, terms = [] } = cell.back.get(name) ?? { tag: "B7" };
    const isGiven = arrays.has(`own.${name}`) && !(isUnderOutput && name === cell.output);
    const sent = terms.flatMap(({ value, from }) => (isGiven && from[0] === "o" ? [] : [numpy(value)]));
    const text = [...(isGiven ? [`own_${name}[t]`] : []), ...sent].join(" + ").replace(/\+ -/g, "- ");
    return line("B", `    d${name}[t] = ${text || "0"}`, tag, [`d.${name}`, `own.${name}`]);
  });
  const timeless = [...cell.back].filter(
    ([name]) => !cell.inputs.includes(name) && cell.steps.every((each) => each.name !== name),
  );
  const sums = timeless.flatMap(([name, { tag, terms = [], once }]) =>
    once
      ? []
      : [
          line(
            "B",
            `    d${name} += ${terms
              .filter(({ from }) => from[1] !== undefined)
              .map(({ value }) => numpy(value))
              .join(" + ")}`,
            tag,
            [`d.${name}`, name],
          ),
        ],
  );
  const after = timeless.flatMap(([name, { tag, terms = [] }]) => {
    const once = terms.filter(({ from }) => from[1] === undefined);
    return once.length === 0
      ? []
      : [line("B", `d${name} += ${once.map(({ value }) => numpy(value)).join(" + ")}`, tag, [`d.${name}`, name])];
  });
  const inputs = cell.inputs.flatMap((name) => {
    const terms = cell.back.get(name)?.terms ?? [];
    return terms.length === 0
      ? []
      : [line("B", `    d${name}[t] = ${terms.map(({ value }) => numpy(value)).join(" + ")}`, "B11", [`d.${name}`])];
  });
  const output = [
    line("A", `    o[t] = ${cell.output}[t] @ W_ho${tape.b_o ? " + b_o" : ""}`, "A5", ["o"], true),
    ...(tape.loss
      ? [
          line("A", `    y_hat[t] = ${own[0]}`, "A6", ["y_hat"], true),
          line("A", `    L += w[t] * ${own[1]}`, "B1", ["loss", "L", "w", "y"], true),
        ]
      : []),
  ];
  const asked = [
    line(
      "B",
      `    do[t] = ${own[2]}${tape.loss ? "" : "  # the slope of a loss that this tape does not know"}`,
      "B3",
      ["d.o"],
      true,
    ),
    line(
      "B",
      `    dW_ho += np.outer(${cell.output}[t], do[t])${tape.b_o ? ";  db_o += do[t]" : ""}`,
      "B5 B4",
      ["d.W_ho", "d.b_o", "W_ho", "b_o"],
      true,
    ),
  ];
  return [
    ...cell.fixed.map(({ name, value, tag }) => line("A", `${name} = ${numpy(value)}`, tag, [name])),
    line("A", loop(isReverse)),
    ...cell.steps.map(({ name, value, tag }) => line("A", `    ${name}[t] = ${numpy(value)}`, tag, [name])),
    ...(isUnderOutput ? output : []),
    line("B", loop(!isReverse)),
    ...(isUnderOutput ? asked : []),
    ...slopes,
    ...sums,
    ...inputs,
    ...after,
  ];
}
