"""Recurrent modules, each in a file of its own."""

from bptt.nn import dynamo
from bptt.nn.arguments import TOKENS
from bptt.nn.cell import RNNCell
from bptt.nn.convert import convert
from bptt.nn.elman import Elman
from bptt.nn.jordan import Jordan, State
from bptt.nn.rnn import RNN
from bptt.nn.stream import Stream

dynamo.admit()

__all__ = ["RNN", "TOKENS", "Elman", "Jordan", "RNNCell", "State", "Stream", "convert"]
