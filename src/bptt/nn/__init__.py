"""Recurrent modules, each in a file of its own."""

from bptt.autograd import dynamo, flops
from bptt.nn.arguments import TOKENS
from bptt.nn.cell import GRUCell, LSTMCell, RNNCell
from bptt.nn.convert import convert
from bptt.nn.drop_in import DropIn
from bptt.nn.elman import Elman
from bptt.nn.gated import GRU, LSTM
from bptt.nn.jordan import Jordan, State
from bptt.nn.network import Network
from bptt.nn.recurrent import Recurrent
from bptt.nn.rnn import RNN
from bptt.nn.stream import Stream

dynamo.admit(DropIn)
flops.register()

__all__ = [
    "GRU", "LSTM", "RNN", "TOKENS", "Elman", "GRUCell", "Jordan", "LSTMCell", "Network", "RNNCell", "Recurrent",
    "State", "Stream", "convert",
]  # fmt: skip
