"""Two sweeps: the only parts of a recurrent network that cannot be one large matrix product.

    forward_sweep (a, W_hh, h0, activation)  ->  h        A2, A3 for t = 1..T
    backward_sweep(dh, h, W_hh, activation)  ->  da, dh0  B6, B7, B11 for t = T..1

Every engine (`reference`, `native`) is a module with these two functions. `packing` knows where rows lie.

a (T, B, H)      the input's share of A2, x_t W_xh + b_h
W_hh (H, H)      recurrent weights, h_{t-1} W_hh; any strides
h0 (B, H)        initial state
h (T+1, B, H)    all states; slot 0 is h0, so h[:-1] and h[1:] are h_{t-1} and h_t. With `reverse` slot T is h0
dh (T, B, H)     ∂L/∂h_t from above (own output, next layer), the cotangent of the last state added to its step
da (T, B, H)     ∂L/∂a_t, from which every weight gradient is one product
dh0 (B, H)       ∂L/∂h_0

activation       "tanh", "relu", "sigmoid", "identity"
batch_sizes      T non-increasing row counts: the arrays are packed as in torch's PackedSequence, a, dh, da (N, H) with
                 N = sum(batch_sizes), h (B+N, H) with the B rows of h0 first (with `reverse`: last). Rows of padding
                 do not exist, so the cost is that of the real steps
reverse          time runs T..1
out              the array for h / da. `a` may be the view of `out` where h_t belongs; h_t then overwrites a_t
total            an array like a / dh that receives the whole a_t of A2 / the whole ∂h_t of B6; may be a / dh itself.
                 Results are the same to the bit with and without it

Around its sweeps, every engine offers the whole layer, so that it may do the products while their numbers are hot:

    forward_layer (x, h0, weight_ih, weight_hh, bias_ih, bias_hh, activation, h_n=...)  ->  h
    backward_layer(dh, dh_n, h, h0, x, weight_ih, weight_hh, activation, dx=..., dweight_ih=..., dweight_hh=..., ...)

x (T, B, I)      inputs, or integer tokens (T, B), each standing for a row of W_xh; packed (N, I) or (N,)
weight_ih (H, I) W_xhᵀ, weight_hh (H, H) W_hhᵀ, biases whose sum is b_h: parameters as torch.nn.RNN holds them. On
                 `native`, weight_hh may be None: a layer without recurrence, as the output layer is (`readout`)
h (T, B, H)      states of the steps alone; packed (N, H)
h0 (1, B, H), dh, dh_n
                 may be None, which is zero; dh_n (1, B, H) is the cotangent of each row's last state
h_n (1, B, H)    an array that receives the last state of every row
dx, dweight_ih, dweight_hh, dbias, dh0
                 arrays that receive B11, B9, B10, B8, B11; what is None is not computed. So with `da` and `total`

accumulate       the gradients of weights and bias go on from what their arrays hold: one long walk in several calls

An engine sums those gradients over blocks of time, cut from where the walk begins, each the fewest steps that have at
least `rows_of_a_block(H)` rows. Where all calls but the last walk whole blocks, `native` gives the bits of a single
call; `reference` sums each call by one product and gives them to rounding.

`choose` says which engine serves given tensors, and why.
"""

import os
import warnings
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

from bptt.engine import native, reference
from bptt.errors import SlowEngineWarning


@dataclass(frozen=True)
class Choice:
    """An engine, the reason it was chosen, and whether something faster was out of reach."""

    engine: ModuleType
    reason: str
    slow: bool = False

    @property
    def name(self) -> str:
        return self.engine.__name__.rpartition(".")[2]


@cache
def choose(device: str, dtype: torch.dtype) -> Choice:
    """The engine for tensors of this device type ("cpu", "cuda") and dtype, and why.

    The environment variable BPTT_ENGINE, read once per device and dtype, decides by itself: "native", "reference", or
    "torch" for the kernels that torch has for plain layers (`torch_serves`) and the reference for all that they lack.
    When the slow engine is the only one that can serve, a SlowEngineWarning says so once.

    >>> choose("cpu", torch.float64).name
    'native'
    """
    asked = os.environ.get("BPTT_ENGINE")
    obstacle = _obstacle_to_native(device, dtype)
    if asked == "reference":
        return Choice(reference, "BPTT_ENGINE=reference asks for it")
    if asked == "torch":
        return Choice(reference, "BPTT_ENGINE=torch asks for torch's kernels, which do not serve everything")
    if asked not in (None, "native"):
        raise ValueError(
            f"BPTT_ENGINE must be native, reference or torch; got {asked!r}. Unset it to let the tensors decide."
        )
    if obstacle is None:
        return Choice(native, f"{dtype} on the CPU is what the compiled sweeps are made for")
    if asked == "native":
        raise ValueError(f"BPTT_ENGINE=native cannot be followed: {obstacle}. Unset it, or remove the obstacle.")
    warnings.warn(f"bptt runs on the slow reference engine: {obstacle}.", SlowEngineWarning, stacklevel=3)
    return Choice(reference, obstacle, slow=True)


@cache
def torch_serves(device: str) -> bool:
    """Whether torch's own kernels compute what they can on this device: where no sweeps of ours run but the reference.

    They know tanh and relu, numbers as inputs, and layers of one size without options; what they give cannot be
    recorded on a tape.
    """
    asked = os.environ.get("BPTT_ENGINE")
    return asked == "torch" or (asked is None and device != "cpu")


def _obstacle_to_native(device: str, dtype: torch.dtype) -> str | None:
    if device != "cpu":
        return f"the compiled sweeps run on the CPU only, and the tensors are on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"the compiled sweeps take float32 and float64, and the tensors are {dtype}"
    return None
