"""Recurrent modules, each in a file of its own."""

from bptt.autograd import dynamo
from bptt.nn.arguments import TOKENS
from bptt.nn.cell import RNNCell
from bptt.nn.convert import convert
from bptt.nn.elman import Elman
from bptt.nn.jordan import Jordan, State
from bptt.nn.recurrent import Recurrent
from bptt.nn.rnn import RNN
from bptt.nn.stream import Stream

dynamo.admit(RNN)

__all__ = ["RNN", "TOKENS", "Elman", "Jordan", "RNNCell", "Recurrent", "State", "Stream", "convert"]
