// Where does this number come from? Each number as the sum of its terms, each term a product of other numbers.

import { lossValue, output, slope } from "./activation.ts";
import { type Address, addressOfInput, addressOfStateBefore, at, type Name, valueAt } from "./address.ts";
import { number } from "./format.ts";
import {
  after,
  before,
  gradientAfter,
  input,
  isWhole,
  type Layer,
  layersAbove,
  offset,
  outputOf,
  stateBefore,
  type Tape,
  target,
  topLayers,
  unitBelow,
} from "./tape.ts";

export type Group = "input" | "past" | "bias" | "own" | "future" | "step" | "output" | "rest";

export interface Factor {
  value: number;
  /** null for a plain number such as the 2 of a squared error. */
  address: Address | null;
}

export interface Term {
  group: Group;
  factors: Factor[];
  value: number;
  /** For terms that belong to a step. */
  t?: number;
}

export interface Explanation {
  address: Address;
  value: number;
  tag: string;
  /** "sum" of terms; a "function" of the numbers in its terms; "given" to the network. */
  kind: "sum" | "function" | "given";
  /** The function's name, or what was given. */
  words: string;
  terms: Term[];
  /** What the terms come to, in double precision. */
  derived: number;
  /** |value − derived| beside the magnitudes that make it up, and what rounding explains of that. */
  residual: number;
  bound: number;
  /** Whether the number stands on the tape, and not only on this page. */
  recorded: boolean;
  /** Numbers that belong to this one without being its terms. */
  related: { address: Address; words: string }[];
}

export function explain(tape: Tape, address: Address): Explanation | undefined {
  const value = valueAt(tape, address);
  return value === undefined ? undefined : new Explainer(tape, address, value).explanation();
}

class Explainer {
  private readonly layer: Layer;

  constructor(
    private readonly tape: Tape,
    private readonly address: Address,
    private readonly value: number,
  ) {
    this.layer = tape.layers[address.layer];
  }

  explanation(): Explanation {
    const { tape, layer } = this;
    const { name, t, i } = this.address;
    const { H } = layer;
    const s = t < 0 ? -1 : outputOf(tape, t);
    switch (name) {
      case "a":
        return this.sum("A2", this.preActivation(t, i), layer.I + H);
      case "h": {
        const a = this.factor("a", t, i);
        const shape = layer.activation;
        if (shape === "identity") return this.sum("A3", [term("input", [a])], 0);
        const derived =
          shape === "relu"
            ? Math.max(0, a.value)
            : shape === "tanh"
              ? Math.tanh(a.value)
              : 1 / (1 + Math.exp(-a.value));
        return this.function(
          "A3",
          shape,
          [term("input", [a])],
          derived,
          Math.abs(this.value) * (1 + Math.abs(a.value)),
          1,
        );
      }
      case "o":
        return this.sum("A5", this.readout(t, i), this.features());
      case "y_hat":
        return this.prediction(t, i);
      case "loss":
        return this.loss(t, s);
      case "L": {
        const steps = range(tape.T).filter((step) => outputOf(tape, step) >= 0);
        const terms = steps.map((step) =>
          term("step", [this.factor("w", step, 0), this.factor("loss", step, 0)], step),
        );
        return this.sum("B1", this.withRest(terms), terms.length);
      }
      case "do":
        return this.outputGradient(t, i, s);
      case "own":
        return layer.above === "outside" ? this.given("own") : this.sum("B6", this.fromAbove(t, i), this.countAbove());
      case "future":
        return this.sum("B6", this.fromFuture(t, i), H, false);
      case "dh":
        return this.sum("B6", [...this.fromAbove(t, i), ...this.fromFuture(t, i)], this.countAbove() + H + 1);
      case "slope":
        return this.slope(t, i);
      case "da":
        return this.sum(
          "B7",
          [term("own", [this.factor("dh", t, i), this.factor("slope", t, i)])],
          4,
          true,
          this.slopeScale(t, i),
        );
      case "dx":
        return this.sum(
          "B11",
          range(H).map((k) => term("own", [this.factor("da", t, k), this.weight("W_xh", i, k)])),
          H,
        );
      case "dh0": {
        const first = layer.direction === "forward" ? 0 : tape.T - 1;
        return this.sum(
          "B11",
          range(H).map((k) => term("future", [this.factor("da", first, k), this.weight("W_hh", i, k)])),
          H,
        );
      }
      case "dW_xh":
      case "dW_hh":
      case "db_h":
      case "dW_ho":
      case "db_o":
        return this.gradient(name);
      default:
        return this.given(name);
    }
  }

  private preActivation(t: number, i: number): Term[] {
    const { layer, tape } = this;
    const terms: Term[] = [];
    if (layer.tokens) terms.push(term("input", [this.weight("W_xh", layer.tokens[t], i)]));
    else
      for (let k = 0; k < layer.I; k++)
        terms.push(
          term("input", [
            { value: input(layer, t, k), address: addressOfInput(layer, t, k) },
            this.weight("W_xh", k, i),
          ]),
        );
    for (let k = 0; k < layer.H; k++)
      terms.push(
        term("past", [
          { value: stateBefore(tape, layer, t, k), address: addressOfStateBefore(tape, layer, t, k) },
          this.weight("W_hh", k, i),
        ]),
      );
    if (layer.b_h) terms.push(term("bias", [{ value: layer.b_h[i], address: at("b_h", layer.position, -1, i) }]));
    return terms;
  }

  private features(): number {
    return topLayers(this.tape).reduce((sum, layer) => sum + layer.H, 0);
  }

  /** h of the top layers, feature k of them all. */
  private feature(t: number, k: number): Factor {
    const [layer, unit] = unitBelow(topLayers(this.tape), k);
    return { value: layer.h[t * layer.H + unit], address: at("h", layer.position, t, unit) };
  }

  private readout(t: number, i: number): Term[] {
    const { tape } = this;
    if (!tape.W_ho) return [term("output", [{ value: this.value, address: null }])];
    const terms = range(this.features()).map((k) => term("output", [this.feature(t, k), this.weight("W_ho", k, i)]));
    if (tape.b_o) terms.push(term("bias", [{ value: tape.b_o[i], address: at("b_o", 0, -1, i) }]));
    return terms;
  }

  private prediction(t: number, i: number): Explanation {
    const { tape } = this;
    const s = outputOf(tape, t);
    const o = range(tape.O).map((k) => this.factor("o", t, k));
    const steep = 1 + Math.max(...o.map((factor) => Math.abs(factor.value)));
    const loss = tape.loss ?? "squared_error";
    const derived = output(loss, tape.o as Float64Array, s * tape.O, tape.O)[i];
    const scale = Math.abs(this.value) * steep;
    if (loss === "squared_error") return this.sum("A6", [term("output", [o[i]])], tape.O, true, scale);
    if (loss === "binary_cross_entropy")
      return this.function("A6", "sigmoid", [term("output", [o[i]])], derived, scale, tape.O);
    const top = Math.max(...o.map((factor) => factor.value));
    const terms = o.map((factor) => ({
      group: "output" as const,
      factors: [factor],
      value: Math.exp(factor.value - top),
    }));
    return this.function("A6", "softmax", terms, derived, scale, tape.O);
  }

  private loss(t: number, s: number): Explanation {
    const { tape } = this;
    const kind = tape.loss ?? "squared_error";
    const o = range(tape.O).map((k) => (tape.o as Float64Array)[s * tape.O + k]);
    const y = range(tape.O).map((k) => target(tape, s, k));
    const derived = lossValue(kind, o, y);
    const steep = 1 + Math.max(...o.map(Math.abs));
    const magnitude =
      kind === "squared_error"
        ? o.reduce((sum, value, k) => sum + (Math.abs(value) + Math.abs(y[k])) ** 2, 0)
        : steep * tape.O;
    const terms =
      kind === "cross_entropy"
        ? [term("output", [this.factor("y_hat", t, (tape.classes as Int32Array)[s])])]
        : range(tape.O).map((k) => ({
            group: "output" as const,
            factors: [this.factor("y_hat", t, k), this.factor("y", t, k)],
            value: lossValue(kind, [o[k]], [y[k]]),
          }));
    const w = this.factor("w", t, 0);
    return this.function("B1", kind, terms, derived, Math.abs(derived) + magnitude, tape.O, [
      { address: w.address as Address, words: `its weight in L, where it adds ${number(w.value * this.value)}` },
      { address: at("L", 0, -1), words: this.weightedSum() },
    ]);
  }

  private weightedSum(): string {
    return `the sum of w · loss over all steps${this.tape.rows > 1 ? " and rows" : ""}`;
  }

  private outputGradient(t: number, i: number, s: number): Explanation {
    const { tape } = this;
    if (s < 0 || !tape.loss) return this.given("do");
    const w = this.factor("w", t, 0);
    const double = tape.loss === "squared_error" ? [plain(2)] : [];
    const y_hat = this.factor("y_hat", t, i);
    const o = range(tape.O).map((k) => Math.abs((tape.o as Float64Array)[s * tape.O + k]));
    const factor = (double.length ? 2 : 1) * Math.abs(w.value);
    const scale = factor * (Math.abs(y_hat.value) * (1 + Math.max(...o)) + Math.abs(target(tape, s, i)));
    const terms = [
      term("output", [...double, w, y_hat]),
      term("output", [plain(-1), ...double, w, this.factor("y", t, i)]),
    ];
    return this.sum("B3", terms, tape.O, true, scale, [
      { address: at("loss", 0, t), words: "the loss this is the slope of" },
    ]);
  }

  /** ∂h_t's own part: from this step's output, from the layer above, or from where the tape does not see. */
  private fromAbove(t: number, i: number): Term[] {
    const { tape, layer } = this;
    const k = offset(tape, layer) + i;
    if (layer.above === "output")
      return range(tape.O).map((c) => term("own", [this.factor("do", t, c), this.weight("W_ho", k, c)]));
    if (layer.above === "layer")
      return layersAbove(tape, layer).flatMap((other) =>
        range(other.H).map((u) =>
          term("own", [
            { value: other.da[t * other.H + u], address: at("da", other.position, t, u) },
            { value: other.W_xh[k * other.H + u], address: at("W_xh", other.position, -1, k, u) },
          ]),
        ),
      );
    const own = { value: layer.dh_direct[t * layer.H + i], address: at("own", layer.position, t, i) };
    return [term("own", [own])];
  }

  private countAbove(): number {
    const { tape, layer } = this;
    if (layer.above === "output") return tape.O;
    return layer.above === "layer" ? layersAbove(tape, layer).reduce((sum, other) => sum + other.H, 0) + 2 : 1;
  }

  private fromFuture(t: number, i: number): Term[] {
    const { tape, layer } = this;
    const s = after(tape, layer, t);
    if (s < 0 && !layer.da_after) return [];
    return range(layer.H).map((k) =>
      term("future", [
        {
          value: gradientAfter(tape, layer, t, k),
          address: s < 0 ? at("da_after", layer.position, -1, k) : at("da", layer.position, s, k),
        },
        this.weight("W_hh", i, k),
      ]),
    );
  }

  private slope(t: number, i: number): Explanation {
    const h = this.factor("h", t, i);
    const { activation } = this.layer;
    const words = "φ' from h alone";
    const terms =
      activation === "tanh"
        ? [term("bias", [plain(1)]), term("past", [plain(-1), h, h])]
        : activation === "sigmoid"
          ? [term("bias", [h]), term("past", [plain(-1), h, h])]
          : [term("bias", [plain(slope(activation, h.value))])];
    const related = activation === "relu" ? [{ address: h.address as Address, words: "h: 1 where it is above 0" }] : [];
    return { ...this.sum("B7", terms, 2, false, undefined, related), words };
  }

  private slopeScale(t: number, i: number): number {
    const h = this.layer.h[t * this.layer.H + i];
    const around = this.layer.activation === "tanh" ? 1 + h * h : this.layer.activation === "sigmoid" ? h + h * h : 1;
    return Math.abs(this.layer.dh[t * this.layer.H + i]) * around;
  }

  private gradient(name: Name): Explanation {
    const { tape, layer } = this;
    const { i, j } = this.address;
    const share = (t: number): Term => {
      if (name === "db_h") return term("step", [this.factor("da", t, i)], t);
      if (name === "db_o") return term("step", [this.factor("do", t, i)], t);
      if (name === "dW_ho") return term("step", [this.feature(t, i), this.factor("do", t, j)], t);
      const from: Factor =
        name === "dW_xh"
          ? { value: input(layer, t, i), address: addressOfInput(layer, t, i) }
          : { value: stateBefore(tape, layer, t, i), address: addressOfStateBefore(tape, layer, t, i) };
      return term("step", [from, this.factor("da", t, j)], t);
    };
    const tag = { dW_xh: "B9", dW_hh: "B10", db_h: "B8", dW_ho: "B5", db_o: "B4" }[name as "dW_xh"];
    const steps = range(tape.T).filter((t) => !name.endsWith("o") || tape.outputs === 0 || outputOf(tape, t) >= 0);
    const weight = at(name.slice(1) as Name, layer.position, -1, i, j);
    return this.sum(tag, this.withRest(steps.map(share)), tape.T, true, undefined, [
      { address: weight, words: "the weight it moves" },
    ]);
  }

  /** What is missing from the sum because other steps or rows are not shown is a term of its own. */
  private withRest(terms: Term[]): Term[] {
    if (isWhole(this.tape)) return terms;
    const rest = this.value - total(terms);
    return [...terms, { group: "rest", factors: [plain(rest)], value: rest }];
  }

  private given(name: Name): Explanation {
    const { tape, layer } = this;
    const { t, i, j } = this.address;
    const related: Explanation["related"] = [];
    const gradient = `d${name}` as Name;
    if (name.startsWith("W_") || name.startsWith("b_")) {
      const address = at(gradient, layer.position, -1, i, j);
      if (valueAt(tape, address) !== undefined) related.push({ address, words: "why it moves: its gradient" });
    }
    if (name === "x" && layer.dx)
      related.push({ address: at("dx", layer.position, t, i), words: "what the loss asks of it" });
    if (name === "w" && outputOf(tape, t) >= 0)
      related.push(
        { address: at("loss", 0, t), words: "the loss it weighs" },
        { address: at("L", 0, -1), words: this.weightedSum() },
      );
    const first = before(tape, layer, layer.direction === "forward" ? 0 : tape.T - 1) < 0 && layer.dh0 !== null;
    const words: Partial<Record<Name, string>> = {
      x: "given to the network",
      y: "what was wanted",
      w: "how much this step's loss counts in L",
      do:
        t >= 0 && outputOf(tape, t) >= 0
          ? "the slope of a loss that this tape does not know"
          : "no output at this step, so nothing asks anything of it",
      own: "what everything above this layer asks of it",
      h_before: first ? "the state the sequence begins with" : "the last state before the steps shown",
      da_after: "∂a of the step after those shown",
    };
    return {
      address: this.address,
      value: this.value,
      tag:
        name === "x" || name === "h_before"
          ? "A1"
          : name === "y" || name === "w"
            ? "B1"
            : name === "do"
              ? "B3"
              : name === "own"
                ? "B6"
                : "",
      kind: "given",
      words: words[name] ?? "a weight: the same number at every step",
      terms: [],
      derived: this.value,
      residual: 0,
      bound: 0,
      recorded: true,
      related,
    };
  }

  private sum(
    tag: string,
    terms: Term[],
    count: number,
    recorded = true,
    scale?: number,
    related: Explanation["related"] = [],
  ): Explanation {
    const derived = total(terms);
    const magnitude = scale ?? terms.reduce((sum, each) => sum + Math.abs(each.value), 0);
    return { ...this.judged(tag, terms, derived, magnitude, count), kind: "sum", words: "", recorded, related };
  }

  private function(
    tag: string,
    words: string,
    terms: Term[],
    derived: number,
    scale: number,
    count: number,
    related: Explanation["related"] = [],
  ): Explanation {
    return { ...this.judged(tag, terms, derived, scale, count), kind: "function", words, recorded: true, related };
  }

  private judged(tag: string, terms: Term[], derived: number, scale: number, count: number) {
    const { address, value } = this;
    return {
      address,
      value,
      tag,
      terms,
      derived,
      residual: relative(value, derived, scale),
      bound: (8 + count) * this.tape.eps,
    };
  }

  private factor(name: Name, t: number, i: number): Factor {
    const address = at(name, this.address.layer, t, i);
    return { value: valueAt(this.tape, address) ?? Number.NaN, address };
  }

  private weight(name: Name, i: number, j: number): Factor {
    const address = at(name, this.address.layer, -1, i, j);
    return { value: valueAt(this.tape, address) ?? Number.NaN, address };
  }
}

/** How far a number is from what it should be, beside the magnitudes that it is made of. */
export function relative(value: number, derived: number, scale: number): number {
  const difference = Math.abs(value - derived);
  return difference === 0 ? 0 : difference / scale;
}

function term(group: Group, factors: Factor[], t?: number): Term {
  const value = factors.reduce((product, factor) => product * factor.value, 1);
  return t === undefined ? { group, factors, value } : { group, factors, value, t };
}

function plain(value: number): Factor {
  return { value, address: null };
}

/** The sum, with the rounding errors of the additions carried along (Neumaier), so that it is the terms' own. */
export function total(terms: Term[]): number {
  let sum = 0;
  let lost = 0;
  for (const { value } of terms) {
    const next = sum + value;
    lost += Math.abs(sum) >= Math.abs(value) ? sum - next + value : value - next + sum;
    sum = next;
  }
  return Number.isFinite(lost) ? sum + lost : sum;
}

export interface Share {
  group: Group;
  value: number;
  /** The sum of the magnitudes. */
  magnitude: number;
}

/** The terms by group, in the order in which the groups appear. */
export function shares(terms: Term[]): Share[] {
  const groups = [...new Set(terms.map((each) => each.group))];
  return groups.map((group) => {
    const own = terms.filter((each) => each.group === group);
    return { group, value: total(own), magnitude: own.reduce((sum, each) => sum + Math.abs(each.value), 0) };
  });
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index);
}
