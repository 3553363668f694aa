"""Who looks on at a call and knows torch's modules and operators alone: torch.fx, torch.jit.trace, expanded weights.

torch.fx gets a call of the module as one node of its graph, as of any module of torch.nn. For the others torch's own
forward computes, where it computes the same; where it does not, they are refused.
"""

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from bptt.errors import InputError
from bptt.nn.arguments import TOKENS

JIT = "torch.jit.trace, and with it torch.onnx.export(dynamo=False),"
PER_SAMPLE = "call_for_per_sample_grads"
INSTEAD = {
    JIT: "torch.export.export takes the others too, and bptt.onnx.export plain cells, LSTM and GRU",
    PER_SAMPLE: "torch.vmap of torch.func.grad takes the others too",
}


def node(module: torch.nn.Module, input: Proxy, hx: Any = None, **options: Any) -> Any:
    """A call of the module in the graph that torch.fx makes."""
    tracer: Any = input.tracer
    path = tracer.path_of_module(module)
    if not path:
        raise InputError(
            "torch.fx makes a recurrent module one node of a model's graph, as it does with torch.nn.RNN; got "
            f"{module} by itself. Trace a model that holds it."
        )
    asked = {name: value for name, value in options.items() if value is not None and value is not False}
    return tracer.create_proxy("call_module", path, (input,) if hx is None else (input, hx), asked)


def are_per_sample(weights: Iterable[Tensor | None]) -> bool:
    """Whether among these are ExpandedWeights, by which torch takes gradients of every sample."""
    known = sys.modules.get("torch.nn.utils._expanded_weights.expanded_weights_impl")
    return known is not None and any(isinstance(weight, known.ExpandedWeight) for weight in weights)


def refused(module: torch.nn.Module, who: str) -> InputError:
    """For layers of which torch has none that computes the same."""
    return InputError(
        f"{who} knows torch's operators alone, and a recurrent layer of a cell of its own is none of them; got "
        f"{module}. Leave it out; {INSTEAD[who]}."
    )


def not_scripted(module: torch.nn.Module, instead: str) -> InputError:
    """For torch.jit.script, which would go through our Python line by line."""
    return InputError(
        f"torch.jit.script takes torch's own recurrent classes; got {module}. {instead} torch.compile and "
        "torch.export take it as it is."
    )


def check_torch_computes_the_same(
    module: torch.nn.RNNBase | torch.nn.RNNCellBase, input: Any, who: str, *, is_plain: bool
) -> None:
    """Raises InputError where torch's forward would not give what ours gives."""
    rows = input.data if isinstance(input, PackedSequence) else input
    if not is_plain or rows.dtype in TOKENS or parametrize.is_parametrized(module):
        raise InputError(
            f"{who} knows torch's operators alone, so it takes what torch's own {type(module).__name__} computes: "
            "numbers, no tokens, tanh or relu, one hidden size, no parametrization, and nothing of learn_h0, leak, "
            "residual, norm, recurrent_dropout, lengths=, reset=, mask=, return_all_layers=; got "
            f"{module}, input of {rows.dtype}. Leave it out; {INSTEAD[who]}."
        )
