"""A sample of the data of a run: one batch of its kind, as long as those of its training, spread over all there is.

For looking at a trained network, not for training it. Texts begin from the zero state.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.errors import InputError
from bptt.tasks import data, labelled, series, table, text
from bptt.tasks.data import Vocabulary
from bptt.tasks.dialect import Dialect

LONGEST = 1024
"""Steps of a text that was trained on as a whole."""
MOST = 32
"""Rows of a batch."""


class Sample(NamedTuple):
    """said    what is in it: "8 windows"
    source  the file or text it is from
    loss    that of a network of the task on it, one call of its recurrent layers
    """

    said: str
    source: str
    loss: Callable[[Any], Tensor]


def of_text(source: str, given: str | None, about: Mapping[str, Any], recipe: text.Recipe) -> Sample:
    """given: a text, or a file with one; None: what the run has learnt from, its `source`.

    Raises InputError for fewer than two steps, and for symbols that the run does not know.
    """
    vocabulary = Vocabulary.from_json(about["vocabulary"])
    if given is None:
        corpus = data.reread(source)
    elif os.path.isfile(given):
        corpus = data.read(given, "diagnose")
    else:
        corpus = data.Corpus(given.encode("utf-8", "surrogateescape"), "the text given")
    tokens = vocabulary.encode(corpus).long()
    if len(tokens) < 3:
        raise InputError(
            f"A text to diagnose needs at least three {vocabulary.unit}s, two steps and what follows; {corpus.source} "
            f"has {len(tokens)}."
        )
    steps = min(len(tokens) - 1, recipe.window(LONGEST))
    rows = max(1, min(MOST, recipe.streams, (len(tokens) - 1) // steps))
    at = torch.linspace(0, len(tokens) - 1 - steps, rows).long() + torch.arange(steps)[:, None]
    x, y = tokens[at], tokens[at + 1]
    return Sample(_counted(rows, "window"), corpus.source, lambda model: model.loss(model(x)[0], y))


def of_series(
    source: str, given: str | None, about: Mapping[str, Any], recipe: series.Recipe, written: Mapping[str, Any]
) -> Sample:
    """given: a table; None: the run's own. Errors as of `series.read_again`."""
    read = table.read(source if given is None else given, Dialect.of(about).but(written))
    found = series.read_again(read, about)
    said = _counted(min(MOST, recipe.batch), "window")
    names = about.get("names", [()])
    return Sample(said, read.source, lambda model: series.loss_of_windows(model, found, names, min(MOST, recipe.batch)))


def of_labelled(
    source: str, given: str | None, about: Mapping[str, Any], recipe: labelled.Recipe, written: Mapping[str, Any]
) -> Sample:
    """given: a table; None: the run's own. Every sequence counts alike.

    Raises InputError where columns, labels or all labels that the network knows are missing.
    """
    roles, classes = labelled.roles_of(about), list(about["classes"])
    read = table.read(source if given is None else given, Dialect.of(about).but(written))
    read.require(
        [*filter(None, (roles.label, roles.sequence, roles.time)), *(roles.inputs if roles.steps is None else ())]
    )
    found = labelled.sequences(read, roles)
    known = [n for n, label in enumerate(found.labels) if label in classes]
    if not known:
        raise InputError(
            f"Sequences to diagnose must have labels that the network knows, {', '.join(classes)}; {read.source} has "
            f"{', '.join(sorted({str(label) for label in found.labels}))}."
        )
    mean, sd = np.array(about["mean"]), np.array(about["sd"])
    rows = min(MOST, recipe.batch, len(known))
    chosen = [known[int(n)] for n in torch.linspace(0, len(known) - 1, rows)]
    x, y = labelled.batch(
        [(labelled.scaled(found.x[n], mean, sd), classes.index(str(found.labels[n]))) for n in chosen]
    )
    return Sample(_counted(rows, "sequence"), read.source, lambda model: F.cross_entropy(model(x), y))


def _counted(rows: int, what: str) -> str:
    return f"{rows} {what}{'s' * (rows > 1)}"
