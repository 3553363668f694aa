"""Peers side by side in one run: `python -m benchmarks`, or `make bench`.

cases.py       shapes, inputs, the float64 truth, what counts as FLOPs, bytes and the limit
peers/         one file per competitor, which says exactly what it computes
worker.py      a process per peer and thread count
measure.py     visits in alternation, medians
layers.py      one layer: correctness gate, then times of everybody, ratios, share of the limit
situations.py  half padding, another process on one core
memory.py      peak memory of a training step
long.py        memory and time of one long sequence, up to a million steps
others.py      how busy other processes were meanwhile
report.py      tables and the verdict on every bar, from the lines of JSON alone
cells.py       cells of one's own and options beside an eager loop, JAX and the reference engine
pointwise.py   how much of a layer's time goes to what is no product
sheet.py       reading a cell's equations, deriving its side B, and what the derived side costs beside autograd
versions.py    the plain layer of two versions of bptt, in two environments
busy.py        what other programs cost a training
train_text.py  end to end: the training loop of `bptt train` with bptt.nn.RNN and with torch.nn.RNN
literature/    results beside published ones: chorales, the adding problem, characters, sunspots
machine.py     what stands beside every figure
results/       lines of JSON of full runs, by date

Full run:             make bench (writes benchmarks/results/<date>.jsonl)
LSTM and GRU:         python -m benchmarks --cell lstm,gru (writes benchmarks/results/<date>-lstm-gru.jsonl)
Does it work at all?  python -m benchmarks --quick
One shape:            python -m benchmarks --case 100,32,128,256 --peers torch,onednn --seconds 10
Tables for the docs:  python -m benchmarks.report benchmarks/results/<date>.jsonl --markdown
"""
