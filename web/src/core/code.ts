// The whole of it in NumPy: the lines that a number came from can be lit.

import type { Name } from "./address.ts";
import type { Loss } from "./tape.ts";

export interface CodeLine {
  text: string;
  tag: string;
  side: "A" | "B" | "";
  /** The quantities that this line makes, the first to be asked about on a click. */
  makes: Name[];
}

const PHI: Record<string, [string, string]> = {
  tanh: ["np.tanh(a[t])", "(1 - h[t] ** 2)"],
  relu: ["np.maximum(0, a[t])", "(h[t] > 0)"],
  sigmoid: ["1 / (1 + np.exp(-a[t]))", "h[t] * (1 - h[t])"],
  identity: ["a[t]", "1"],
};

const LOSSES: Record<Loss, [string, string, string]> = {
  cross_entropy: ["softmax(o[t])", "-np.log(y_hat[t] @ y[t])", "w[t] * (y_hat[t] - y[t])"],
  binary_cross_entropy: [
    "sigmoid(o[t])",
    "-np.log(np.where(y[t], y_hat[t], 1 - y_hat[t])).sum()",
    "w[t] * (y_hat[t] - y[t])",
  ],
  squared_error: ["o[t]", "((y_hat[t] - y[t]) ** 2).sum()", "2 * w[t] * (y_hat[t] - y[t])"],
};

export function code(activation: string, loss: Loss | null, reverse: boolean): CodeLine[] {
  const [phi, slope] = PHI[activation];
  const [g, own, gradient] = loss ? LOSSES[loss] : ["", "", "..."];
  const previous = reverse ? "h[t + 1]" : "h[t - 1]";
  const line = (side: CodeLine["side"], text: string, tag = "", makes: Name[] = []): CodeLine => ({
    side,
    text,
    tag,
    makes,
  });
  return [
    line("A", reverse ? "for t in reversed(range(1, T + 1)):" : "for t in range(1, T + 1):"),
    line("A", `    a[t] = x[t] @ W_xh + ${previous} @ W_hh + b_h`, "A2", ["a", "x", "h_before"]),
    line("A", `    h[t] = ${phi}`, "A3", ["h"]),
    line("A", "    o[t] = h[t] @ W_ho + b_o", "A5", ["o"]),
    ...(loss
      ? [
          line("A", `    y_hat[t] = ${g}`, "A6", ["y_hat"]),
          line("A", `    L += w[t] * ${own}`, "B1", ["loss", "L", "w", "y"]),
        ]
      : []),
    line("B", reverse ? "for t in range(1, T + 1):" : "for t in reversed(range(1, T + 1)):"),
    line("B", `    do = ${gradient}${loss ? "" : "  # the slope of a loss that this tape does not know"}`, "B3", [
      "do",
    ]),
    line("B", "    dh = do @ W_ho.T + future", "B6", ["dh", "own", "future"]),
    line("B", `    da = dh * ${slope}`, "B7", ["da", "slope"]),
    line("B", "    dW_ho += np.outer(h[t], do);  db_o += do", "B5 B4", ["dW_ho", "db_o", "W_ho", "b_o"]),
    line("B", "    dW_xh += np.outer(x[t], da);  db_h += da", "B9 B8", ["dW_xh", "db_h", "W_xh", "b_h"]),
    line("B", `    dW_hh += np.outer(${previous}, da)`, "B10", ["dW_hh", "W_hh"]),
    line("B", "    future = da @ W_hh.T;  dx = da @ W_xh.T", "B11", ["dx", "dh0", "da_after"]),
  ];
}
