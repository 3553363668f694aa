"""Results beside published ones, each by a plain command: `python -m benchmarks.literature.adding`.

jsb.py          next chord of Bach's chorales, negative log-likelihood per step; needs JSB_Chorales.mat
adding.py       the adding problem with an identity-initialised relu network; needs no file
shakespeare.py  characters: one recipe with our layer and with torch.nn.RNN inside; needs the text
sunspots.py     forecasts of the yearly sunspot number beside naive ones; the series comes with statsmodels
gates.py        plain, GRU and LSTM layers of equal size, ours and torch's, on four kinds of data; needs their files
outcome.py      what they share: seeds, mean and spread, the table, lines of JSON

Every choice in a recipe was made on the validation part; a run reads the test part once, at its end. Each prints its
table and appends its lines to benchmarks/results/<date>-literature.jsonl. What came out: docs/results.md.
"""
