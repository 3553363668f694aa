// The network around the cells, known by name: o, ŷ, the losses, ∂o, the output's weights. A5, A6 and B1 to B5.

import { type Address, around, at, valueAt } from "./address.ts";
import { number } from "./format.ts";
import { lossAt, lossValue, prediction, slope } from "./output.ts";
import { isWhole, outputOf, type Tape, topLayers, unitBelow } from "./tape.ts";
import { type Explanation, type Factor, type Group, given, NOT_SHOWN, relative, type Term, total } from "./terms.ts";

const ONE: Group = { hue: "neither", expression: null, words: "", from: null };

export function explainAround(tape: Tape, address: Address, value: number): Explanation {
  return new Explainer(tape, address, value).explanation();
}

class Explainer {
  constructor(
    private readonly tape: Tape,
    private readonly address: Address,
    private readonly value: number,
  ) {}

  explanation(): Explanation {
    const { tape, address } = this;
    const { name, i, j } = address;
    const t = address.t ?? -1;
    switch (name) {
      case "o":
        return this.readout(t, i);
      case "y_hat":
        return this.prediction(t, i);
      case "loss":
        return this.loss(t);
      case "L": {
        const terms = this.steps(
          (step) => [around("w", step), around("loss", step)],
          (step) => outputOf(tape, step) >= 0,
        );
        return this.sum("B1", this.withRest(terms), terms.length);
      }
      case "d.o":
        return this.slope(t, i);
      case "d.b_o":
        return this.sum("B4", this.withRest(this.steps((step) => [around("d.o", step, i)])), tape.T);
      case "d.W_ho":
        return this.sum(
          "B5",
          this.withRest(this.steps((step) => [this.feature(step, i), around("d.o", step, j)])),
          tape.T,
        );
      default:
        return this.given();
    }
  }

  /** A term for each step that has an output. */
  private steps(of: (t: number) => Address[], counts = (_: number) => true): Term[] {
    const all = Array.from({ length: this.tape.T }, (_, t) => t).filter(counts);
    return all.map((t) => ({ ...this.term(...of(t).map((address) => this.factor(address))), t }));
  }

  /** Gradients of other steps and rows count too. */
  private withRest(terms: Term[]): Term[] {
    if (isWhole(this.tape)) return terms;
    const rest = this.value - total(terms);
    return [...terms, { group: 1, factors: [{ value: rest, address: null }], value: rest }];
  }

  /** h of the top layers, feature k of them all. */
  private feature(t: number, k: number): Address {
    const [layer, unit] = unitBelow(topLayers(this.tape), k);
    return at(layer, layer.cell.output, t, unit);
  }

  private readout(t: number, i: number): Explanation {
    const { tape } = this;
    if (!tape.W_ho) return given(this.address, this.value, "made by what this tape does not see");
    const features = topLayers(tape).reduce((sum, layer) => sum + layer.H, 0);
    const terms = Array.from({ length: features }, (_, k) =>
      this.term(this.factor(this.feature(t, k)), this.factor(around("W_ho", null, k, i))),
    );
    if (tape.b_o) terms.push(this.term(this.factor(around("b_o", null, i))));
    return this.sum("A5", terms, features);
  }

  private outputs(name: string, t: number): Factor[] {
    return Array.from({ length: this.tape.O }, (_, k) => this.factor(around(name, t, k)));
  }

  private prediction(t: number, i: number): Explanation {
    const { tape } = this;
    const o = this.outputs("o", t);
    const found = prediction(tape, t);
    const loss = tape.loss ?? "squared_error";
    const [derived, scale] = [found.value[i], found.magnitude[i]];
    if (loss === "squared_error") return this.sum("A6", [this.term(o[i])], tape.O, scale);
    if (loss === "binary_cross_entropy")
      return this.judged("A6", "function", "sigmoid", [this.term(o[i])], derived, scale, tape.O);
    const top = Math.max(...o.map((factor) => factor.value));
    const terms = o.map((factor) => ({ group: 0, factors: [factor], value: Math.exp(factor.value - top) }));
    return this.judged("A6", "function", "softmax", terms, derived, scale, tape.O);
  }

  private loss(t: number): Explanation {
    const { tape } = this;
    const kind = tape.loss ?? "squared_error";
    const o = this.outputs("o", t).map(({ value }) => value);
    const y = this.outputs("y", t).map(({ value }) => value);
    const found = lossAt(tape, t);
    const terms =
      kind === "cross_entropy"
        ? [this.term(this.factor(around("y_hat", t, (tape.classes as Int32Array)[outputOf(tape, t)])))]
        : o.map((value, k) => ({
            group: 0,
            factors: [this.factor(around("y_hat", t, k)), this.factor(around("y", t, k))],
            value: lossValue(kind, [value], [y[k]]),
          }));
    const w = around("w", t);
    const related = [
      { address: w, words: `its weight in L, where it adds ${number((valueAt(tape, w) ?? 0) * this.value)}` },
      { address: around("L", null), words: this.weightedSum() },
    ];
    return { ...this.judged("B1", "function", kind, terms, found.value[0], found.magnitude[0], tape.O), related };
  }

  private weightedSum(): string {
    return `the sum of w · loss over all steps${this.tape.rows > 1 ? " and rows" : ""}`;
  }

  private slope(t: number, i: number): Explanation {
    const { tape } = this;
    if (outputOf(tape, t) < 0 || !tape.loss) return this.given();
    const w = this.factor(around("w", t));
    const double = tape.loss === "squared_error" ? [{ value: 2, address: null }] : [];
    const [y_hat, y] = [this.factor(around("y_hat", t, i)), this.factor(around("y", t, i))];
    const terms = [this.term(...double, w, y_hat), this.term({ value: -1, address: null }, ...double, w, y)];
    const related = [{ address: around("loss", t), words: "the loss this is the slope of" }];
    return { ...this.sum("B3", terms, tape.O, slope(tape, t).magnitude[i]), related };
  }

  private given(): Explanation {
    const { tape, address, value } = this;
    const { name, i, j } = address;
    const t = address.t ?? -1;
    const words: Record<string, string> = {
      y: "what was wanted",
      w: "how much this step's loss counts in L",
      "d.o":
        outputOf(tape, t) >= 0
          ? "the slope of a loss that this tape does not know"
          : "no output at this step, so nothing asks anything of it",
    };
    const related: Explanation["related"] = [];
    const slope = around(`d.${name}`, null, i, j);
    if (address.t === null && valueAt(tape, slope) !== undefined)
      related.push({ address: slope, words: "why it moves: its gradient" });
    if (name === "w" && outputOf(tape, t) >= 0)
      related.push(
        { address: around("loss", t), words: "the loss it weighs" },
        { address: around("L", null), words: this.weightedSum() },
      );
    const tag = name === "d.o" ? "B3" : address.t === null ? "" : "B1";
    return { ...given(address, value, words[name] ?? "a weight: the same number at every step"), tag, related };
  }

  private factor(address: Address): Factor {
    return { value: valueAt(this.tape, address) ?? Number.NaN, address };
  }

  private term(...factors: Factor[]): Term {
    return { group: 0, factors, value: factors.reduce((product, { value }) => product * value, 1) };
  }

  private sum(tag: string, terms: Term[], count: number, scale?: number): Explanation {
    const magnitude = scale ?? terms.reduce((sum, { value }) => sum + Math.abs(value), 0);
    return this.judged(tag, "sum", "", terms, total(terms), magnitude, count);
  }

  private judged(
    tag: string,
    kind: "sum" | "function",
    words: string,
    terms: Term[],
    derived: number,
    scale: number,
    count: number,
  ): Explanation {
    const { address, value } = this;
    return {
      address,
      value,
      tag,
      kind,
      words,
      groups: terms.some(({ group }) => group === 1) ? [ONE, NOT_SHOWN] : [ONE],
      terms,
      derived,
      residual: relative(value, derived, scale),
      bound: (8 + count) * this.tape.eps,
      related: [],
    };
  }
}
