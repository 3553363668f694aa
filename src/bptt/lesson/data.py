"""A worked example as plain data."""

import math
from typing import Any

from torch import Tensor

from bptt.lesson.sides import before, gradients, handed, jacobians, of_outputs, values
from bptt.lesson.worked import Worked, wanted
from bptt.sheet.sides import Side


def as_data(worked: Worked) -> dict[str, Any]:
    """All that `bptt trace` prints, for JSON; docs/trace.md lists the keys.

    Arrays of a step have no batch axis. t counts from 1 as on the sheet.
    """
    given, tape, outcome = worked.example, worked.tape, worked.outcome
    model = given.model
    cell = model.rnn.cell
    tags = {line.symbol: line.tag for line in cell.side_b}
    return {
        "schema": 2,
        "example": given.given,
        "kind": given.kind,
        "task": given.task,
        "settings": {
            "cell": {"name": cell.name, "text": cell.text},
            "inputs": model.rnn.input_size,
            "hidden": model.readout.in_features,
            "sizes": model.rnn.sizes,
            "outputs": model.readout.out_features,
            "loss": model.loss_name,
            "lr": given.lr,
            "seed": given.seed,
            "scale": given.scale,
            "alphabet": list(given.alphabet),
        },
        "equations": {"side_A": _equations(cell.side_a), "side_B": _equations(cell.side_b)},
        "once": {
            name: {"value": array.tolist(), "gradient": _list(worked.gradient.get(name)), "tag": tags.get(f"∂{name}")}
            for name, array in worked.once.items()
        },
        "side_A": _forward(worked),
        "side_B": _backward(worked)[::-1],
        "loss": {"before": float(tape["L"]), "after": _finite(worked.loss_after)},
        "weights": {
            name: {
                "before": weight.tolist(),
                "gradient": worked.gradient[name].tolist(),
                "tag": tags[f"∂{name}"],
                "after": worked.after[name].tolist(),
            }
            for name, weight in worked.before.items()
        },
        "training": {
            "updates": outcome.updates,
            "loss": _finite(outcome.loss),
            "answer": outcome.answer,
            "wanted": wanted(given),
            "right": outcome.right,
        },
        "check": {
            "ok": worked.report.ok,
            "notes": list(worked.report.notes),
            "residuals": {
                tag: {"worst": item.worst, "allowed": item.bound, "at": item.what}
                for tag, item in worked.report.worst.items()
            },
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _equations(side: Side) -> list[dict[str, Any]]:
    return [
        {
            "tag": line.tag,
            "symbol": line.symbol,
            "text": line.text,
            "once": line.once,
            "terms": [{"text": term.text, "from": term.use} for term in line.terms],
        }
        for line in (*side.where, *side.lines)
    ]


def _list(row: Tensor | None) -> Any:
    return None if row is None else row.tolist()


def _forward(worked: Worked) -> list[dict[str, Any]]:
    tape, found, states = worked.tape, values(worked.tape), before(worked.tape)
    outputs = {name: of_outputs(tape, tape[name]) for name in ("o", "y_hat", "loss")}
    outputs["y"] = of_outputs(tape, worked.example.targets.view(-1, 1, 1))
    outputs["w"] = of_outputs(tape, tape["w"][-len(tape["o"]) :])
    return [
        {
            "t": t + 1,
            "x": tape.x[t, 0].tolist(),
            "before": {name: array[t].tolist() for name, array in states.items()},
            "values": {value.name: value.whole[t].tolist() for value in found},
            **{name: _list(rows[t]) for name, rows in outputs.items()},
        }
        for t in range(tape.steps)
    ]


def _backward(worked: Worked) -> list[dict[str, Any]]:
    tape, found, passed = worked.tape, gradients(worked.tape), handed(worked.tape)
    B2 = jacobians(tape)
    return [
        {
            "t": t + 1,
            "jacobian": _list(B2[t]),
            "do": tape.d("o")[t, 0].tolist(),
            "gradients": {
                gradient.name: {
                    "total": gradient.whole[t].tolist(),
                    "terms": [term[t].tolist() for term in gradient.terms],
                }
                for gradient in found
            },
            "handed": {each.name: each.whole[t].tolist() for each in passed},
        }
        for t in range(tape.steps)
    ]
