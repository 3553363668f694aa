"""A library that makes torch.nn.RNN inside: scikit-learn's grid search over a skorch network, with ours patched in.

Nothing of the library or of the model changes; `torch.nn.RNN` is bptt.nn.RNN while it runs. The network says after some
steps of noise whether the first input was positive. Needs skorch: pip install skorch
"""

import time
from unittest.mock import patch

import numpy as np
import torch

import bptt

try:
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from skorch import NeuralNetClassifier
except ImportError:
    raise SystemExit("This example needs skorch, which is not installed. Install it: pip install skorch") from None


class Classifier(torch.nn.Module):
    """As a library writes it: whatever torch.nn.RNN is when the network is made."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.rnn = torch.nn.RNN(2, hidden, batch_first=True)
        self.classes = torch.nn.Linear(hidden, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classes(self.rnn(x)[0][:, -1])


def search(x: np.ndarray, y: np.ndarray) -> tuple[GridSearchCV, float]:
    """Two sizes on two folds, then the better one on everything."""
    torch.manual_seed(0)
    network = NeuralNetClassifier(
        Classifier, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=0.01, max_epochs=12,
        batch_size=16, train_split=None, verbose=0,
    )  # fmt: skip
    pipeline = make_pipeline(FunctionTransformer(lambda x: x.astype(np.float32)), network)
    start = time.perf_counter()
    found = GridSearchCV(pipeline, {"neuralnetclassifier__module__hidden": [16, 32]}, cv=2).fit(x, y)
    return found, time.perf_counter() - start


generator = np.random.default_rng(0)
x = generator.normal(size=(240, 20, 2))
x[:, 1:] *= 0.1
y = (x[:, 0, 0] > 0).astype(np.int64)

search(x, y)  # once for nothing, so that neither has to load the libraries
theirs, seconds = search(x, y)
with patch("torch.nn.RNN", bptt.nn.RNN):
    ours, our_seconds = search(x, y)

module = ours.best_estimator_[-1].module_.rnn
assert type(module) is bptt.nn.RNN
print(f"torch.nn.RNN  accuracy {theirs.best_score_:.4f}  {seconds:.1f} s")
print(f"bptt.nn.RNN   accuracy {ours.best_score_:.4f}  {our_seconds:.1f} s")
print(f"{seconds / our_seconds:.1f} times as fast, skorch's and scikit-learn's own work included")
