"""Everything that can be got wrong, in one table: what was given, and a pattern of the message it gets.

`tests/test_mistakes.py` gives each, `tests/errors_page.py` writes docs/errors.md from the answers. Entries that begin
with "bptt " are commands, the others Python; both meet the files that `material` makes in the working directory.
"""

import contextlib
import io
import json
import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from typer.testing import CliRunner

import bptt
from bptt import cli, runs, train
from bptt.errors import InputError
from bptt.lesson import worked
from bptt.sheet import losses
from bptt.tape import tapefile
from bptt.tasks import Text, data, table
from bptt.tasks.text import Recipe
from bptt.train import forcing, schedules, truncated

SLOW = "s : size S\ns_t = 0.9 ⊙ s_{t-1} + x_t W_xs\nh_t = tanh(s_t W_sh)"
STAR = "k_t = σ(x_t W_xk + h_{t-1} W_hk + b_k)\nh_t = k_t ⊙ h_{t-1} + (1 − k_t) ⊙ tanh(x_t)"
DECAY = "δ : input\nh_t = tanh(x_t W_xh + (exp(−δ_t) ⊙ h_{t-1}) W_hh)"
PAST = "p_t = x_t\nh_t = tanh(x_t W_xh + p_{t-1} W_ph)"
ZONE = "m : rows\nn_t = tanh(x_t W_xn + h_{t-1} W_hn)\nh_t = m ⊙ h_{t-1} + (1 − m) ⊙ n_t"
WORDS = "the cat sat on the mat. " * 40
SMALL = "--hidden 8 --streams 4 --bptt 10"
TYPES = (InputError, ValueError, TypeError, IndexError, RuntimeError)

COMMANDS = {
    "Files of text": {
        "bptt train missing.txt -o new": r"there is none at missing\.txt\. Check the path",
        "bptt train . -o new": r"\. is a directory\. Name a file in it",
        "bptt train empty.txt -o new": r"must not be empty",
        "bptt train mark.txt -o new": r"must not be empty; mark\.txt holds no characters",
        "bptt train latin.txt -o new": r"must be UTF-8; .* byte 0xe9 at offset 3 .*--unit byte",
        "bptt train cut.txt -o new": r"must be UTF-8; .* byte 0xe2 at offset 8",
        "bptt train surrogate.txt -o new": r"must be UTF-8; .* byte 0xed at offset 0",
        "bptt train short.txt -o new": r"32 streams x 64 steps \+ 1 = 2049 symbols; got 190\. .*--streams 2",
        "bptt train tiny.txt -o new": r"held-out part must have at least 2 symbols; .*--held-out 0",
        "bptt train loop -o new": r"must be readable; loop: Too many levels of symbolic links",
        "bptt train dangling -o new": r"there is none at dangling",
        f"bptt train {'x' * 300}.txt -o new": r"must be readable; x+\.txt: File name too long",
        "bptt train not-utf-8-\udcff.txt -o new": r"there is none at not-utf-8-\\udcff\.txt",
        "bptt train /dev/null -o new": r"must be readable; /dev/null: it is a device, not a file",
        "bptt train 'two\nlines.txt' -o new": r"there is none at two",
        "bptt train ../../../../../../nowhere.txt -o new": r"there is none at \.\./",
    },
    "Where a run goes": {
        "bptt train words.txt": r"Missing option '-o'",
        "bptt train words.txt -o ''": r"A path must not be empty; got ''",
        "bptt train words.txt -o run": r"run holds one\. Go on with it: --resume\. Replace it: --overwrite",
        f"bptt train words.txt -o taken {SMALL}": r"has not written taken/log\.jsonl, taken/forecast\.csv, or",
        f"bptt train words.txt -o locked {SMALL} --overwrite": r"has not written locked/\.lock",
        "bptt train words.txt -o words.txt": r"output must be a directory, new or old; words\.txt is a file",
        "bptt train words.txt -o words.txt/run": r"is a file or lies below one",
        f"bptt train words.txt -o {'x' * 300} {SMALL}": r"File name too long",
        f"bptt train words.txt -o dangling {SMALL}": r"dangling",
        f"bptt train words.txt -o loop {SMALL}": r"loop",
        "bptt train words.txt -o new-\udcff": r"must be UTF-8; got 'new-\\udcff'",
        "bptt train words.txt -o new --resume": r"new holds no settings\.json\. Train one first: bptt train -o new",
        "bptt train words.txt -o words.txt --resume": r"words\.txt holds no settings\.json",
        "bptt train words.txt -o run --resume --overwrite": r"got both --resume and --overwrite",
    },
    "Options of a training": {
        "bptt train words.txt -o new --epochs 2 --steps 9": r"got both\. Leave one out",
        "bptt train words.txt -o new --hidden many": r"--hidden",
        "bptt train words.txt -o new --hidden 0": r"hidden must be a whole number of at least 1; got 0",
        "bptt train words.txt -o new --hidden 2147483648": r"at least 1 and below 2\*\*31; got 2147483648",
        "bptt train words.txt -o new --hidden 100000000 --streams 4": r"must fit in memory; .* needs 37,252,903 GiB",
        "bptt train words.txt -o new --layers -1": r"layers must be a whole number of at least 1; got -1",
        "bptt train words.txt -o new --layers 2000000000": r"at least 1 and at most 1,000; got 2000000000",
        "bptt train words.txt -o new --bptt 0": r"bptt must be a whole number of at least 1; got 0",
        "bptt train words.txt -o new --streams 0": r"streams must be a whole number of at least 1; got 0",
        "bptt train words.txt -o new --epochs 0": r"epochs must be a whole number of at least 1; got 0",
        "bptt train words.txt -o new --steps -5": r"steps must be a whole number of at least 1; got -5",
        "bptt train words.txt -o new --patience 0": r"patience must be a whole number of at least 1; got 0",
        "bptt train words.txt -o new --lr nan": r"lr must be a number above 0 .*; got nan",
        "bptt train words.txt -o new --lr inf": r"lr must be a number above 0 .*; got inf",
        "bptt train words.txt -o new --lr -0.1": r"lr must be a number above 0 .*; got -0\.1",
        "bptt train words.txt -o new --clip 0": r"clip must be a number above 0 .*; got 0\.0",
        "bptt train words.txt -o new --clip nan": r"clip must be a number above 0 .*; got nan",
        "bptt train words.txt -o new --clip-value 0": r"--clip-value must be a number above 0 .*; got 0\.0",
        "bptt train words.txt -o new --time-limit 0": r"--time-limit must be a number above 0 .*; got 0\.0",
        "bptt train words.txt -o new --held-out 1": r"--held-out must be a share from 0 up to, not including, 1; got 1",
        "bptt train words.txt -o new --held-out nan": r"--held-out must be a share .*; got nan",
        "bptt train words.txt -o new --k1 65": r"k1 must be at most bptt; got k1=65, bptt=64",
        "bptt train words.txt -o new --unit letter": r"unit must be one of character, byte, word; got 'letter'",
        "bptt train words.txt -o new --unit word --words 1": r"words must be a whole number of at least 2; got 1",
        "bptt train words.txt -o new --seed -1": r"seed must be a whole number from 0",
        "bptt train words.txt -o new --nonlinearity gelu": r"must be one of tanh, relu, sigmoid, identity; got 'gelu'",
        "bptt train words.txt -o new --cell gruu": r"there is none at gruu\. Did you mean gru\?",
        "bptt train words.txt -o new --cell nothing.txt": r"there is none at nothing\.txt",
        "bptt train words.txt -o new --cell ''": r"A cell is one of elman, lstm, .*",
        "bptt train words.txt -o new --cell gru --nonlinearity relu": r"--nonlinearity is the φ of the plain cell; got",
        "bptt train words.txt -o new --cell cells/decay.txt": r"gives a cell x and nothing else; the cell .* reads δ",
        f"bptt train words.txt -o new {SMALL} --cell cells/past.txt": r"x_t stands by itself",
        "bptt train series.csv -o new --target v --cell cells/star.txt": r"inputs as wide as the output",
        "bptt train words.txt -o new --optimizer lion": r"must be one of adam, sgd; got 'lion'",
        "bptt train words.txt -o new --wrong": r"No such option",
    },
    "Going on with a run": {
        "bptt train other.txt -o run --resume": r"unknown: 'x'",
        "bptt train shorter.txt -o run --resume": r"sha256 [0-9a-f]{12}; got 936 chars",
        "bptt train words.txt -o run --resume --hidden 9": r"keeps its hidden, 8; got 9",
        "bptt train words.txt -o run --resume --cell gru": r"keeps its cell, 'elman'; got 'gru'",
        "bptt train words.txt -o run --resume --unit byte": r"keeps its unit, 'character'; got 'byte'",
        "bptt train words.txt -o run --resume --lr 0": r"lr must be a number above 0",
        "bptt train -o gone --resume": r"gone\.txt cannot be used any more: .* Say where they are now",
        "bptt train -o all-damaged --resume": r"all-damaged/checkpoint\.safetensors must be a file as bptt train",
    },
    "Runs that are damaged": {
        "bptt generate new": r"new holds no settings\.json\. Train one first",
        "bptt generate words.txt": r"words\.txt holds no settings\.json",
        "bptt generate truncated": r"truncated/weights\.safetensors must be a file as bptt train wrote it",
        "bptt generate changed": r"do not have the checksum",
        "bptt generate foreign": r"foreign/weights\.safetensors .* it was not written by bptt",
        "bptt generate mixed": r"it belongs to another training than settings\.json",
        "bptt generate no-weights": r"weights\.safetensors; no-weights/weights\.safetensors does not exist",
        "bptt generate not-json": r"not-json/settings\.json must be a file as bptt train wrote it",
        "bptt generate not-utf-8": r"not-utf-8/settings\.json must be a file as bptt train wrote it",
        "bptt generate deep": r"deep/settings\.json must be a file as bptt train wrote it",
        "bptt generate cell": r"cell/settings\.json must be a file as bptt train wrote it; it is not: Line 1",
        "bptt generate schema": r"schema must be 4.*got 99",
        "bptt generate surrogate": r"surrogate/settings\.json .* surrogates not allowed",
        "bptt generate task": r"task must be one of .*got 'chess'",
        "bptt generate huge": r"huge/settings\.json must be a file|huge",
        "bptt generate settings-directory": r"settings\.json must be readable: Is a directory",
    },
    "Letting a network write, playing it": {
        "bptt generate run --prime 'the dog!'": r"unknown: '!', 'd', 'g'\. Known: ' \.acehmnost'",
        "bptt generate run --prime ''": r"prime must have at least one character",
        "bptt generate run --length 0": r"length must be a whole number of at least 1; got 0",
        "bptt generate run --temperature nan": r"temperature must be 0 .* or a number above; got nan",
        "bptt generate run --temperature -1": r"temperature must be 0 .* or a number above; got -1\.0",
        "bptt generate run --temperature inf": r"temperature must be 0 .* or a number above; got inf",
        "bptt generate run --top-k 0": r"top_k must be a whole number of at least 1; got 0",
        "bptt generate run --top-p 0": r"top_p must be a probability above 0 and at most 1; got 0\.0",
        "bptt generate run --top-p nan": r"top_p must be a probability .*; got nan",
        "bptt generate run --seed -1": r"seed must be a whole number from 0",
        "bptt score run missing.txt": r"text to score must be a file; there is none at missing\.txt\. Check the path\.",
        "bptt score run empty.txt": r"text to score must not be empty; empty\.txt",
        "bptt score run latin.txt": r"must be UTF-8; .* byte 0xe9",
        "bptt score run .": r"text to score must be a file; \. is a directory",
        "bptt score run tiny.txt": r"Every character must be among the 11 .*; line 1 of .*tiny\.txt has ",
        "bptt score new words.txt": r"new holds no settings\.json",
        "bptt inspect run t -o page.html": r"at least two characters",
        "bptt inspect run Dog -o page.html": r"unknown: 'D', 'g'",
        "bptt inspect run 'the cat' -o nowhere/page.html": r"Make the directory 'nowhere' first",
        "bptt inspect run 'the cat' -o run": r"Add a file name",
        "bptt inspect run 'the cat' -o run/weights.safetensors": r"a run keeps; got .*, weights\.safetensors of",
        "bptt inspect run 'the cat' -o elsewhere/.lock": r"a run keeps; got 'elsewhere/\.lock', \.lock of the run",
    },
    "Examples worked through": {
        "bptt trace": r"Missing argument 'EXAMPLE'",
        "bptt trace ''": r"got",
        "bptt trace a": r"got",
        "bptt trace 1,x,3": r"got",
        "bptt trace 1,nan,3": r"nan",
        "bptt trace 1,inf,3": r"inf",
        "bptt trace hello --hidden 0": r"hidden",
        "bptt trace hello --lr nan": r"lr|learning rate",
        "bptt trace hello --digits 99": r"--digits must lie in 2 to 17; got 99",
        "bptt trace hello --nonlinearity gelu": r"gelu",
        "bptt trace hello --train -1": r"-1",
        "bptt trace hello --cell lstn": r"there is none at lstn\. Did you mean lstm\?",
        "bptt trace hello --cell nothing.txt": r"there is none at nothing\.txt",
        "bptt trace hello --cell gru --nonlinearity relu": r"the φ of the plain cell; got 'relu' with the cell 'gru'",
        "bptt trace vanishing --hidden 3 --lr 1": r"networks of its own.* got --hidden, --lr\. Leave that out",
    },
    "Cells, derived": {
        "bptt derive": r"Missing argument 'CELL'",
        "bptt derive nowhere.txt": r"A cell is one of elman, lstm, .*; there is none at nowhere\.txt",
        "bptt derive LSMT": r"there is none at LSMT\. Did you mean lstm\?",
        "bptt derive lstm --notation pytroch": r"one of bptt, posts, d2l, .*; got 'pytroch'\. Did you mean pytorch\?",
        "bptt derive .": r"\. is a directory or a device\. Name a file",
        "bptt derive latin.txt": r"in UTF-8; latin\.txt has the byte 0xe9 at offset 3",
        "bptt derive words.txt": r"Line 1, column 23: '\.' means nothing here",
        "bptt derive empty.txt": r"A cell has at least one equation",
        "bptt derive gru --tex --json": r"got both --tex and --json\. Leave one out",
    },
    "Tables": {
        "bptt train ragged.csv -o new --label y --sequence s": r"line 3 of ragged\.csv has 2",
        "bptt train missing.csv -o new --label y --sequence s": r"there is none at missing\.csv",
        "bptt train good.csv -o new --label z --sequence s": r"column must be one of the table's: s, x, y; got 'z'",
        "bptt train good.csv -o new": r"table must be said; good\.csv came alone, with the columns s, x, y\. To",
        "bptt train missing.csv -o new": r"The table must be a file; there is none at missing\.csv\. Check the path",
        "bptt train large.csv -o new --target x": r"from -1e\+100 to 1e\+100; line 3 of large\.csv has 1e\+300",
        "bptt train /dev/null -o new --target x": r"must be readable; /dev/null: it is a device, not a file",
    },
    "Time of a series": {
        "bptt train twice.csv -o new --target v": r"line 62 of .* '2026-03-01' in .* Keep one row .* none",
        "bptt train twice.csv -o new --target v --time day": r"so has line 61\. Keep one row of each time; where",
        "bptt train milliseconds.csv -o new --target v": r"has '1700003540000' in column 'made', .*Keep one row of",
        "bptt train panel.csv -o new --target v": r"so has line 2\. Rows of one time differ in 'kind' \('A', 'B'\):",
        "bptt train stores.csv -o new --target v": r"differ in 'store' and 'item' .*: these are 4 series\.",
        "bptt train autumn.csv -o new --target v": r"so has line 36\. .* offset from UTC, as 2024-10-27 10:00\+02",
        "bptt train split.csv -o new --target v": r"has '2020-1' in columns 'year', 'month', and so has line 2",
        "bptt train split.csv -o new --target v --time year,day": r"one of the table's: year, month, v; got 'day'",
        "bptt train split.csv -o new --target v --time year,v": r"neither target nor input; got 'v' as both",
        "bptt train harvests.csv -o new --target v": r"all written alike, .*; line 2 of harvests\.csv has '1949/50'",
        "bptt train typo.csv -o new --target v": r"line 31 of typo\.csv has '2026-02-30' in column 'day'",
        "bptt train giant.csv -o new --target v": r"from -1e\+100 to 1e\+100, .*; line 2 of giant\.csv has 1e300",
        "bptt train gap.csv -o new --target v": r"validation part, .* \(line 44 to line 52 of gap\.csv\)\. Nothing is",
        "bptt train end.csv -o new --target v,w": r"the test part, .*; 'v' is missing in all of its 9 steps",
    },
    "Forecasting": {
        "bptt forecast new": r"new holds no settings\.json",
        "bptt forecast run": r"needs a run that was trained on a series; run was trained for the task 'text'",
        "bptt forecast series --steps 0": r"steps must be a whole number from 1 to 10,000; got 0",
        "bptt forecast series --data missing.csv": r"there is none at missing\.csv",
        "bptt forecast series --data good.csv": r"trained on; good\.csv has no 'v', only s, x, y\.",
        "bptt forecast series --data other.csv": r"as those trained on, day; in other\.csv they are 2 days",
        "bptt forecast series --data brief.csv": r"reads the last \d+ steps; brief\.csv has 3",
        "bptt forecast series -o next.png": r"as CSV and a picture beside it; got next\.png",
        "bptt forecast series -o nowhere/next.csv": r"nowhere",
        "bptt forecast series -o drawn.csv": r"drawn\.png is there, and bptt has not drawn it\. Move it away",
        "bptt forecast series -o series/settings.json": r"a run keeps; got .*, settings\.json of the run in 'series'",
        "bptt forecast series -o series/backtest.csv": r"a run keeps; got .series/backtest\.png., backtest\.png of",
        "bptt forecast series -o series.csv": r"must not replace the file it was made from; got 'series\.csv'",
    },
    "Saying what sequences are": {
        "bptt classify new sequences.csv": r"new holds no settings\.json",
        "bptt classify run sequences.csv": r"labelled sequences; run was trained for the task 'text'",
        "bptt classify labelled missing.csv": r"there is none at missing\.csv",
        "bptt train again.csv -o new --label kind --sequence id": r"'a' has 1 in line 2 and in line 3 .*: --time none",
        "bptt classify labelled good.csv": r"trained on; good\.csv has no .*, only s, x, y\.",
        "bptt classify labelled sequences.csv -o nowhere/said.csv": r"nowhere",
        "bptt classify labelled sequences.csv -o labelled/settings.json": r"a run keeps; got .*, settings\.json of",
    },
}

CODE = {
    "Cells of your own": {
        "bptt.Cell('h_t = tahn(x_t W_xh + h_{t-1} W_hh)')": r"(?s)no function is called tahn.*Did you mean tanh\?",
        "bptt.Cell('h_t = tanh(x_t W_xh + h_t W_hh)')": r"(?s)h_t is read before it is made.*Write h_\{t-1\}",
        "bptt.Cell('h_t = tanh(x_t W_xh + h_t-1 W_hh)')": r"h_t-1 can be read in two ways",
        "bptt.Cell('h_t = tanh(x_t W_xh + h_{t-2} W_hh)')": r"this step, t, and of its states the step before",
        "bptt.Cell('h_t = tanh(x_t W_xh + u * h_{t-1})')": r"(?s)u is not known.*u : vector",
        "bptt.Cell('h_t = x_t W_xh + x_t * h_{t-1} W_hh')": r"a product with a matrix and ⊙ in one term",
        "bptt.Cell('h_t = tanh(x_t W + h_{t-1} W)')": r"W is used with two shapes",
        "bptt.Cell('h_t = tanh(x_t W_xh)')": r"reads a value of the step before",
        "bptt.Cell('h_t = tanh(W_xh x_t + W_hh h_{t-1})')": r"right of what it multiplies, as in x_t W_xh",
        "bptt.Cell('h_t = tanh(x_t W_xh + 𝑢 * h_{t-1})')": r"it only looks like 'u'",
        "bptt.Cell('h_t = tanh(x_t W_xh + h_{t-1} W_hh + drop(b_h))')": r"drop is for values of a step",
    },
    "Layers of any cell": {
        "Recurrent('lsmt', 4, 8)": r"is one of elman, lstm, .*; got 'lsmt'\. Did you mean lstm\?",
        "Recurrent('a gated unit', 4, 8)": r"got 'a gated unit'\. One of your own is text: its equations",
        "Recurrent(torch.nn.LSTM, 4, 8)": r"cell must be a bptt\.Cell, the name .* or the text of one; got type",
        "Recurrent('h_t = tahn(x_t W_xh + h_{t-1} W_hh)', 4, 8)": r"Did you mean tanh\?",
        "Recurrent('α : constant = 0.5; h_t = α ⊙ h_{t-1} + x_t', 4, 4)": r"and this cell has none",
        "Recurrent('lstm', 4, '8')": r"hidden_size must be an integer above zero; got '8'",
        "Recurrent('lstm', 4, [8, 0])": r"hidden_size must be one integer above zero, or a list of them",
        "Recurrent('lstm', 4, 8, 0)": r"num_layers must be an integer above zero; got 0",
        "Recurrent(SLOW, 4, 8)": r"beside I and H, here S; got none\. Write sizes=\{'S': 16\}",
        "Recurrent(SLOW, 4, 8, sizes={'S': 3, 'R': 2})": r"here S; got R, S",
        "Recurrent('lstm', 4, 8, sizes={'S': 3})": r"here none; got S",
        "Recurrent(SLOW, 4, 8, sizes={'S': 2.5})": r"sizes\['S'\] must be an integer above zero; got 2\.5",
        "Recurrent(SLOW, 4, 8, sizes=[3])": r"sizes= is a dict, from names .*; got list",
        "Recurrent(STAR, 4, 8)": r"inputs as wide as the output; layer 0 gets 4 .* hidden_size 8",
        "Recurrent(STAR, 4, 4, 2, bidirectional=True)": r"layer 1 gets 8 numbers .* get the outputs of both",
        "Recurrent('lstm', 4, 8, init='xavier')": r"init must be 'torch', 'orthogonal', .*; got 'xavier'",
        "Recurrent('lstm', 4, 8, init=1)": r"or a dict with such a way or a number .*; got 1",
        "Recurrent('lstm', 4, 8, init={'b_forget': 1})": r"which are W_xi, W_hi, .*; got 'b_forget'",
        "Recurrent('lstm', 4, 8, init={'b_f': 'orthogonal'})": r"'orthogonal' draws matrices, and b_f has .* \(8,\)",
        "Recurrent('lstm', 4, 8, init={'W_xi': 'identity'})": r"draws square matrices, and W_xi has .* \(4, 8\)",
        "Recurrent('lstm', 4, 8, init={'b_f': float('nan')})": r"begins with a number .*; got init\['b_f'\] = nan",
        "bptt.nn.LSTM(4, [8, 6], proj_size=2)": r"proj_size is for layers of one size; got proj_size=2",
        "bptt.nn.GRU(4, 8, init={'b_n': 1})": r"which are W_xr, .*; got 'b_n'\. Did you mean",
        "bptt.nn.LSTM(4, 8)(torch.ones(6, 2, 4), torch.ones(1, 2, 8))": r"hx must be a tuple \(h0, c0\).*; got Tensor",
        "bptt.nn.LSTMCell(4, 8)(torch.ones(2, 4), torch.ones(2, 8))": r"hx is a tuple \(h, c\).*; got Tensor",
        "bptt.convert(bptt.nn.LSTM(4, 8, learn_h0=True), back=True)": r"torch's LSTM has no learn_h0; got LSTM",
        "bptt.nn.GRUCell(4, 8)(torch.ones(2, 4), ([0],))": r"GRUCell: hidden must be a tensor, .*; got tuple",
        "bptt.nn.LSTM(4, 8, init={1: 2})": r"init= names parameters, as in .*; got 1 for a name",
        "bptt.nn.LSTM(4, 8, proj_size=2, init='identity')": r"draws square matrices, and W_hi has the shape \(8, 2\)",
        "bptt.convert(torch.nn.RNN)": r"must be a torch\.nn\.Module; got type",
        "Recurrent('lstm', 4, 8, dropout=1.0)": r"dropout must lie in \[0, 1\).*; got 1\.0",
        "Recurrent('lstm', 4, 8, recurrent_dropout=0.5)": r"what stands in drop\(\.\.\.\), and the text .* has no drop",
        "Recurrent('h0 : vector; h_t = h0 * h_{t-1} + x_t W', 4, 8, learn_h0=True)": r"learn_h0 makes a parameter h0",
        "Recurrent('lstm', 4, 8, checkpoint='often')": r"checkpoint must be None, .auto., .*; got 'often'",
        "Recurrent('lstm', 4, 8, checkpoint='10B')(torch.ones(6, 2, 4))": r"a memory budget must hold .*; got '10B'",
        "Recurrent('lstm', 4, 8)(torch.ones(6, 2, 9))": r"Expected 4, got 9",
        "Recurrent('lstm', 4, 8)(torch.full((6, 2), 4))": r"tokens must lie in \[0, 4\), the input size; got 4 to 4",
        "Recurrent(STAR, 4, 4)(torch.ones(6, 2).long())": r"integer x holds tokens, .* here x_t stands by itself",
        "Recurrent('lstm', 4, 8)(torch.ones(6, 2, 4), torch.zeros(1, 2, 8))": r"a tuple \(h0, c0\), .*; got Tensor",
        "Recurrent('lstm', 4, 8)(torch.ones(6, 2, 4), [torch.zeros(1, 2, 8)])": r"\(h0, c0\), .*; got 1 of them",
        "Recurrent('lstm', 4, 8)(torch.ones(6, 2, 4), (torch.zeros(1, 2, 8), None))": r"c0 must be a tensor .* None",
        "Recurrent('lstm', 4, 8)(torch.ones(6, 2, 4), (torch.zeros(1, 2, 8), torch.zeros(1, 2, 9)))": r"c0 size",
        "Recurrent('gru', 4, [8, 5])(torch.ones(6, 2, 4), torch.zeros(2, 2, 8))": r"hx must be a tuple with one tensor",
        "Recurrent(DECAY, 4, 8)(torch.ones(6, 2, 4))": r"inputs= are those .* beside x, here δ; got none",
        "Recurrent(DECAY, 4, 8)(torch.ones(6, 2, 4), inputs={'detla': torch.ones(6, 2)})": r"here δ; got detla",
        "Recurrent(DECAY, 4, 8)(torch.ones(6, 2, 4), inputs=torch.ones(6, 2))": r"inputs= is a dict, .*; got Tensor",
        "Recurrent(DECAY, 4, 8)(torch.ones(6, 2, 4), inputs={'δ': torch.ones(2, 6)})": r"shape \(6, 2, 1\)",
        "Recurrent(DECAY, 4, 8)(torch.ones(6, 2, 4), inputs={'δ': [1.0] * 6})": r"laid out as the input.*; got list",
        "Recurrent(DECAY, 4, 8)(pack(6, 5), inputs={'δ': pack(5, 6).data[:, :1]})": r"same lengths .*; got Tensor",
        "Recurrent(DECAY, 4, 8)(pack(6, 5), inputs={'δ': pack(6, 4)})": r"with the same lengths in the same order",
        "Recurrent('lstm', 4, 8)(torch.ones(6, 2, 4), inputs={'δ': torch.ones(6, 2)})": r"here none; got δ",
        "Recurrent(ZONE, 4, 8)(torch.ones(6, 2, 4), inputs={'m': torch.ones(6, 2, 8)})": r"shape \(2, 8\), a row",
        "Recurrent(ZONE, 4, [8, 5])": r"all layers read the same m, which is H wide, and here their H differs: 5, 8",
        "Recurrent(ZONE, 4, 8)(torch.ones(6, 2, 4), inputs={'m': torch.ones(2, 8).requires_grad_()})": r"no gradient",
    },
    "Tables": {
        "table.read('ragged.csv')": r"line 3 of ragged\.csv has 2, separated by comma",
        "table.read('empty.csv')": r"must not be empty; empty\.csv holds no bytes",
        "table.read('blank.csv')": r"holds only blank lines",
        "table.read('header.csv')": r"needs rows below the names",
        "table.read('latin.csv')": r"byte 0xe9 in line 2 .*--encoding cp1252",
        "table.read('zeros.csv')": r"zero bytes in line 2",
        "table.read('double.csv')": r"several called 'x'",
        "table.read('numbers.csv')": r"first line of a table must name its columns; .* --header none",
        "table.read('quote.csv')": r"double quotes must end with one",
        "table.read('cut.parquet')": r"must be a Parquet file",
        "table.read('.')": r"\. is a directory",
        "table.read('good.csv').numbers('y')": r"line 2 of .*good\.csv has 'a'",
        "table.read('infinite.csv').numbers('x')": r"must hold finite numbers; line 3",
        "table.read('thousands.csv').numbers('sold')": r"'1,231'\. .* 1231 or 1\.231, .* --decimal \. for",
        "table.read('thousands.csv').numbers('share')": r"in one unit; line 3 .* has '0\.11'\. Other cells have %",
        "table.read('thousands.csv').numbers('price')": r"same mark .* has '1\.020,0'\. Another cell has '998\.5'",
        "table.read('names.csv')": r"2 names and 3 cells a line, such as '2026-01-01, 1, 5'\. If a comma stands",
    },
    "Tapes on disk": {
        "bptt.Tape.load('missing.tape')": r"found nothing at 'missing\.tape'",
        "bptt.Tape.load('.')": r"found a directory at '\.'",
        "bptt.Tape.load('tapes/empty')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/cut-short')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/giant-header')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/header-past-the-end')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/header-not-json')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/header-not-utf-8')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/header-deep')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/overlapping')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/past-the-end')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/negative-shape')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/shape-overflows')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/unknown-dtype')": r"cannot be read as safetensors",
        "bptt.Tape.load('tapes/double-key')": r"not usable",
        "bptt.Tape.load('tapes/foreign')": r"safetensors file of something else",
        "bptt.Tape.load('tapes/about-not-json')": r"its description is not JSON",
        "bptt.Tape.load('tapes/about-deep')": r"its description is not JSON",
        "bptt.Tape.load('tapes/about-a-list')": r"has schema None",
        "bptt.Tape.load('tapes/schema-3')": r"reads tapes of schema 1 to 2; .* has schema 3",
        "bptt.Tape.load('tapes/array-missing')": r"arrays are missing",
        "bptt.Tape.load('tapes/array-too-many')": r"arrays that nothing names: extra",
        "bptt.Tape.load('tapes/wrong-shape')": r"has shape",
        "bptt.Tape.load('tapes/wrong-dtype')": r"dtype",
        "bptt.Tape.load('tapes/layers-huge')": r"layers are not complete",
        "bptt.Tape.load('tapes/token-outside')": r"holds numbers from",
        "tape.save('nowhere/a.tape')": r"Make the directory 'nowhere' first",
        "tape.save('run')": r"Add a file name",
        "tape.save('run/weights.safetensors')": r"a tape must not take the place of a file that a run keeps",
        "tape.save('a\\0.tape')": r"NUL|null",
        "tape.save('x' * 300)": r"too long",
        "tape.page('page.html', row=5)": r"row",
        "tape.page('page.html', first=99)": r"first",
        "tape.page('page.html', steps=0)": r"steps",
    },
    "Recording": {
        "bptt.record(model, x, y[:-1])": r"shape",
        "bptt.record(model, x, y + 99)": r"must lie in \[0, 5\)",
        "bptt.record(model, x + 99, y)": r"tokens|must lie in",
        "bptt.record(model, x, y.float())": r"class numbers, int64; got torch\.float32",
        "bptt.record(model, x, y, loss='hinge')": r"loss must be one of .*got 'hinge'",
        "bptt.record(model, x, y, loss=torch.nn.functional.mse_loss)": r"is a name, one of .*the function mse_loss",
        "bptt.record(rnn, torch.ones(6, 2, 4), y)": r"got none, and RNN has no loss_name\. Write loss='squared_error'",
        "bptt.record(model, x, y, weights=torch.ones(99))": r"weights must be one for each step",
        "bptt.record(torch.nn.Linear(2, 2), torch.ones(3, 2), torch.ones(3, 2), loss='squared_error')": r"made 0 such",
        "bptt.record(two, torch.ones(6, 2, 4), y, loss='cross_entropy')": r"GRU, Recurrent or a cell; Two made 2",
        r"bptt.record(model, x, y, text='\ud800').save('half.tape')": r"must be Unicode.*lone surrogate '\\ud800'",
        "tape.grad('W_xx')": r"gradients are those of .*got 'W_xx'",
        "of_lstm.direct('f')": r"from outside of a cell come gradients of h, c; got 'f'",
        "of_lstm.grad('W_hh')": r"gradients are those of W_xi, .*; got 'W_hh'",
        "tape.grad('W_hh', step=99)": r"step must lie in \[-6, 6\); got 99",
        "tape.layer(3)": r"layer must lie in \[-1, 1\); got 3",
        "tape.layer(0, 'sideways')": r"direction must be 'forward' or 'reverse'",
        "bptt.Tape(tape.layers[:1]).layer(0, 'reverse')": r"runs forward only",
        "unfinished.dh": r"no backward pass has reached it",
        "unfinished.check()": r"side B is empty",
    },
    "Networks": {
        "rnn(torch.ones(6, 2, 9))": r"9",
        "rnn(torch.ones(6))": r"2-D or 3-D|2D or 3D|axes",
        "rnn(torch.ones(6, 2, 4), torch.ones(1, 3, 7))": r"7|hidden",
        "rnn(torch.ones(6, 2, 4).double())": r"dtype|float64",
        "rnn(torch.ones(6, 2, 4), lengths=[6, 9])": r"9",
        "rnn(torch.ones(6, 2, 4), lengths=[6])": r"length",
        "rnn(torch.ones(6, 2, 4), lengths=[6, -1])": r"-1",
        "rnn(torch.ones(6, 2, 4), mask=torch.ones(6, 2).long())": r"booleans of shape \(6, 2\).*int64.*as_tensor",
        "rnn(torch.ones(6, 2, 4), mask=torch.ones(2, 6).bool())": r"\(6, 2\), \(time, batch\) .* got .* \(2, 6\)",
        "rnn(torch.ones(6, 2, 4), mask=torch.ones(6, 2).bool(), lengths=[6, 6])": r"Give mask= alone",
        "bptt.nn.RNN(0, 8)": r"input_size|0",
        "bptt.nn.RNN(4, 0)": r"hidden_size|0",
        "bptt.nn.RNN(4, 8, num_layers=0)": r"num_layers|0",
        "bptt.nn.RNN(4, 8, nonlinearity='gelu')": r"gelu",
        "bptt.nn.RNN(4, 8, dropout=2.0)": r"dropout",
        "bptt.convert(3)": r"int|Module",
    },
    "Losses and masks": {
        "losses.loss('hinge', o, y)": r"loss must be one of .*got 'hinge'",
        "losses.loss('cross_entropy', o, y + 99)": r"must lie in \[0, 5\)",
        "losses.loss('cross_entropy', o, y[:2])": r"must have shape",
        "losses.loss('squared_error', o, o * float('nan'))": r"must be numbers; got 60 NaN among 60",
        "losses.loss('squared_error', o, o[..., :2])": r"must have shape",
        "losses.loss('cross_entropy', o, y, mask=torch.ones(6, 2))": r"mask must be bool",
        "losses.loss('cross_entropy', o, y, mask=torch.zeros(6, 2).bool())": r"no step counts",
        "losses.loss('cross_entropy', o, y, mask=torch.ones(3, 9).bool())": r"mask must have shape",
        "losses.loss('cross_entropy', o, y, class_weights=torch.ones(3))": r"class weights must have shape \(5,\)",
    },
    "Text, windows, training in Python": {
        "data.windows(torch.zeros(100), streams=32, steps=16)": r"32 streams x 16 steps",
        "data.split(torch.arange(29), 0.05)": r"at least 2 symbols",
        "data.Vocabulary(tuple('abc')).encode('xyz')": r"unknown: 'x', 'y', 'z'",
        "data.Vocabulary.from_json({'unit': 'letter'})": r"vocabulary must hold",
        "train.fit(model, [])": r"data holds no batch",
        "train.fit(torch.nn.Linear(2, 2), [(torch.ones(2, 2), torch.ones(2))])": r"Linear has no method loss",
        "train.fit(model, [(x[:, 0], y[:, 0])], batch=0)": r"batch must be a whole number of at least 1; got 0",
        "train.fit(model, [(x[:, 0], y[:, 0])], epochs=0)": r"epochs must be a whole number of at least 1; got 0",
        "train.fit(model, [(x[:, 0], y[:, 0])], lr='fast')": r"lr must be a number above 0 .*; got 'fast'",
        "train.fit(model, [(x[:, 0], y[:, 0])], [])": r"held_out holds no batch",
        "Recipe(hidden=True)": r"hidden must be a whole number of at least 1; got True",
        "Recipe(hidden=1.5)": r"hidden must be a whole number of at least 1; got 1\.5",
        "Recipe(clip=float('inf'))": r"clip must be a number above 0",
        "list(forcing.continuation(model, x[:0, 0], 5))": r"prime must have at least one character",
        "forcing.scheduled(jordan, torch.ones(3, 1, 4), y[:3, :1], truth=2.0)": r"probability in \[0, 1\]; got 2\.0",
        "forcing.scheduled(jordan, torch.ones(3, 1, 4), y[:2, :1], truth=1.0)": r"every step and row of the inputs",
        "list(truncated.updates(model, model.loss, x, y, k1=0, k2=3))": r"k1",
        "truncated.bias(model, lambda o, y: 1.0, x, y, k1=2, k2=3)": r"one number that depends on the outputs o.*got 1",
        "rnn(freed)": r"`x` .* reaches to byte 192 of its storage, which has 0",
        "worked.example('')": r"got",
    },
}


def material(at: Path) -> None:
    """Makes the files that mistakes are made with."""
    texts = {
        "words.txt": WORDS, "other.txt": WORDS + "x", "shorter.txt": WORDS[24:], "short.txt": WORDS[:200],
        "tiny.txt": "hello", "empty.txt": "", "mark.txt": "\ufeff", "gone.txt": WORDS,
        "good.csv": "s,x,y\n1,2,a\n1,3,a\n2,4,b\n", "ragged.csv": "s,x,y\n1,2,a\n1,3\n", "empty.csv": "",
        "blank.csv": "\n\n", "header.csv": "s,x,y\n", "double.csv": "x,x\n1,2\n", "numbers.csv": "1,2\n3,4\n",
        "quote.csv": 'x,y\n"1,2\n', "zeros.csv": "x\n1\0\n", "infinite.csv": "x\n1\ninf\n",
        "names.csv": "day,v\n2026-01-01,1,5\n",
        "thousands.csv": "sold;share;price\n1,231;12%;1.020,0\n1,190;0.11;998.5\n",
    }  # fmt: skip
    for name, text in texts.items():
        (at / name).write_text(text, "utf-8")
    (at / "cells").mkdir()
    for name, text in {"decay": DECAY, "past": PAST, "star": STAR}.items():
        (at / "cells" / f"{name}.txt").write_text(text, "utf-8")
    days = [f"{np.datetime64('2026-01-01') + n},{n * 7 % 11}\n" for n in range(60)]
    for name, rows in {"series": days, "other": days[::2], "brief": days[:3]}.items():
        (at / f"{name}.csv").write_text("time,v\n" + "".join(rows))
    steps = "".join(f"{n // 3},{n * 5 % 7},{'ab'[n // 3 % 2]}\n" for n in range(36))
    (at / "sequences.csv").write_text("id,u,kind\n" + steps)
    (at / "again.csv").write_text("id,t,u,kind\na,1,2,x\na,1,3,x\nb,1,4,y\n")
    (at / "large.csv").write_text("x\n1\n1e300\n")
    times = {
        "twice": [row.split(",")[0] for row in (*days, days[-1])],
        "panel": [f"{1990 + n // 8} Q{n // 2 % 4 + 1}" for n in range(60)],
        "autumn": [f"2024-10-{26 + (n - (n > 34)) // 24} {(n - (n > 34)) % 24:02}:00" for n in range(60)],
        "harvests": [f"{1949 + n}/{50 + n}" for n in range(48)],
        "typo": [*(row.split(",")[0] for row in days[:29]), "2026-02-30"],
        "giant": [f"{n}e300" for n in range(1, 60)],
    }
    for name, cells in times.items():
        rows = "".join(f"{cell},{'AB'[n % 2]},{n * 7 % 11}\n" for n, cell in enumerate(cells))
        (at / f"{name}.csv").write_text("day,kind,v\n" + rows)
    made = "".join(f"{1_700_003_540_000 - 60_000 * (n // 2)},{n * 7 % 11}\n" for n in range(60))
    (at / "milliseconds.csv").write_text("made,v\n" + made)
    stores = "".join(f"{2000 + n // 4},{n % 2},{n // 2 % 2},{n * 7 % 11}\n" for n in range(60))
    (at / "stores.csv").write_text("year,store,item,v\n" + stores)
    split = "".join(f"{2020 + n // 12},{n % 6 + 1},{n * 7 % 11}\n" for n in range(60))
    (at / "split.csv").write_text("year,month,v\n" + split)
    for name, gap in {"gap": range(40, 54), "end": range(50, 60)}.items():
        rows = "".join(f"{n},{'' if n in gap else n * 7 % 11},{n}\n" for n in range(60))
        (at / f"{name}.csv").write_text("step,v,w\n" + rows)
    for command in ("series.csv -o series --target v", "sequences.csv -o labelled --label kind --sequence id"):
        kind, message = answer(f"bptt train {command} --hidden 4 --epochs 1", {})
        assert kind == "exit code 0", message
    (at / "latin.txt").write_bytes("café".encode("latin1"))
    (at / "latin.csv").write_bytes("x\ncafé\n".encode("latin1"))
    (at / "cut.txt").write_bytes(b"cut off \xe2\x82")
    (at / "surrogate.txt").write_bytes(b"\xed\xa0\x80")
    (at / "cut.parquet").write_bytes(b"PAR1\0\0\0")
    (at / "loop").symlink_to("loop")
    (at / "dangling").symlink_to("nowhere/at/all")
    tapes(at / "tapes")
    for name in ("run", "gone"):
        trained(at / name, at / f"{name.replace('run', 'words')}.txt", seed=0)
    trained(at / "elsewhere", at / "words.txt", seed=1)
    (at / "gone.txt").unlink()
    for name in ("taken/forecast.csv", "taken/log.jsonl", "locked/.lock", "drawn.png"):
        (at / name).parent.mkdir(exist_ok=True)
        (at / name).write_text("mine")
    damaged: dict[str, Callable[[Path], object]] = {
        "truncated": lambda run: cut(run / runs.WEIGHTS),
        "changed": lambda run: turn(run / runs.WEIGHTS),
        "foreign": lambda run: (run / runs.WEIGHTS).write_bytes(save({"w": torch.zeros(3)})),
        "mixed": lambda run: (run / runs.WEIGHTS).write_bytes((at / "elsewhere" / runs.WEIGHTS).read_bytes()),
        "no-weights": lambda run: (run / runs.WEIGHTS).unlink(),
        "not-json": lambda run: (run / runs.SETTINGS).write_text('{"schema": 4,'),
        "not-utf-8": lambda run: (run / runs.SETTINGS).write_bytes(b'{"schema": "\xff"}'),
        "deep": lambda run: (run / runs.SETTINGS).write_text("[" * 100_000),
        "schema": lambda run: set_in(run, schema=99),
        "surrogate": lambda run: set_in(run, about="\ud800"),
        "task": lambda run: set_in(run, task="chess"),
        "cell": lambda run: set_in(run, recipe={**vars(Recipe()), "equations": "h_t = tanh(x_t W_xh"}),
        "huge": lambda run: set_in(run, recipe={**vars(Recipe()), "hidden": 2**31 - 1}),
        "settings-directory": lambda run: ((run / runs.SETTINGS).unlink(), (run / runs.SETTINGS).mkdir()),
        "all-damaged": lambda run: (cut(run / runs.CHECKPOINT), turn(run / runs.PREVIOUS)),
    }
    for name, damage in damaged.items():
        run = at / name
        run.mkdir()
        for file in (at / "run").iterdir():
            (run / file.name).write_bytes(file.read_bytes())
        damage(run)


def trained(at: Path, source: Path, seed: int) -> None:
    run, training = runs.start(at, Text(data.read(source), Recipe(hidden=8, streams=4, bptt=10, steps=2, seed=seed)))
    training.run(watch=run.watch, save=run.save)
    run.close()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def turn(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def set_in(run: Path, **values: object) -> None:
    settings = json.loads((run / runs.SETTINGS).read_text())
    (run / runs.SETTINGS).write_text(json.dumps(settings | values))


def tapes(at: Path) -> None:
    """Files that are tapes up to one thing."""
    at.mkdir()
    names()["tape"].save(at / "good")
    good = (at / "good").read_bytes()
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    about = json.loads(header["__metadata__"]["bptt.tape"])

    def write(name: str, head: Any, *, text: str | None = None) -> None:
        raw = (json.dumps(head) if text is None else text).encode()
        (at / name).write_bytes(len(raw).to_bytes(8, "little") + raw + good[8 + size :])

    def with_about(name: str, description: Any) -> None:
        text = description if isinstance(description, str) else json.dumps(description)
        write(name, {**header, "__metadata__": {"bptt.tape": text}})

    def with_array(name: str, **changes: Any) -> None:
        write(name, {**header, "W_ho": {**header["W_ho"], **changes}})

    (at / "empty").write_bytes(b"")
    (at / "cut-short").write_bytes(good[:-9])
    (at / "giant-header").write_bytes((2**62).to_bytes(8, "little") + good[8:])
    (at / "header-past-the-end").write_bytes((len(good) * 2).to_bytes(8, "little") + good[8:])
    write("header-not-json", None, text="{" * 50)
    (at / "header-not-utf-8").write_bytes((4).to_bytes(8, "little") + b'"\xff\xff"')
    write("header-deep", None, text="[" * 10_000)
    with_array("overlapping", data_offsets=[0, header["W_ho"]["data_offsets"][1]])
    with_array("past-the-end", data_offsets=[header["W_ho"]["data_offsets"][0], 2**40])
    with_array("negative-shape", shape=[-8, 5])
    with_array("shape-overflows", shape=[2**40, 2**40])
    with_array("unknown-dtype", dtype="F13")
    write("double-key", None, text=json.dumps(header)[:-1] + ', "W_ho": ' + json.dumps(header["b_o"]) + "}")
    write("foreign", {**header, "__metadata__": {}})
    with_about("about-not-json", "{")
    with_about("about-deep", "[" * 100_000)
    with_about("about-a-list", [1, 2])
    with_about("schema-3", {**about, "schema": 3})
    with_about("array-missing", {**about, "arrays": [*about["arrays"], "more"]})
    with_about("layers-huge", {**about, "layers": [{**about["layers"][0], "layer": 10**9}]})
    arrays = tapefile.read(at / "good")[1]

    def with_arrays(name: str, **changes: torch.Tensor) -> None:
        named = {**arrays, **changes}
        (at / name).write_bytes(save(named, {"bptt.tape": json.dumps({**about, "arrays": sorted(named)})}))

    (at / "array-too-many").write_bytes(
        save({**arrays, "extra": torch.zeros(1)}, {"bptt.tape": header["__metadata__"]["bptt.tape"]})
    )
    with_arrays("wrong-shape", W_ho=torch.zeros(3, 3))
    with_arrays("wrong-dtype", W_ho=arrays["W_ho"].to(torch.int32))
    with_arrays("token-outside", **{"layers.0.forward.x": arrays["layers.0.forward.x"] + 99})


class Two(torch.nn.Module):
    """Two recurrent modules, one on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = bptt.nn.Recurrent("gru", 4, 8), bptt.nn.Recurrent("gru", 8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.upper(self.lower(x)[0])[0]


def names() -> dict[str, Any]:
    """What the Python entries can name."""
    torch.manual_seed(0)
    model, rnn = bptt.nn.Elman(5, 8, 5), bptt.nn.RNN(4, 8)
    x, y = torch.arange(12).view(6, 2) % 5, (torch.arange(12).view(6, 2) + 1) % 5
    with bptt.recording() as tapes, bptt.using("reference"):
        rnn(torch.ones(6, 2, 4))
        bptt.nn.Recurrent("lstm", 4, 8)(torch.ones(6, 2, 4))[0].sum().backward()
    freed = torch.ones(6, 2, 4)
    freed.untyped_storage().resize_(0)

    def pack(*lengths: int) -> Any:
        x = torch.ones(max(lengths), len(lengths), 4)
        return torch.nn.utils.rnn.pack_padded_sequence(x, list(lengths), enforce_sorted=False)

    return {
        "Recurrent": bptt.nn.Recurrent, "SLOW": SLOW, "STAR": STAR, "DECAY": DECAY, "ZONE": ZONE, "pack": pack,
        "bptt": bptt, "torch": torch, "data": data, "forcing": forcing, "losses": losses, "runs": runs, "table": table,
        "schedules": schedules, "train": train, "truncated": truncated, "worked": worked, "Recipe": Recipe,
        "model": model, "rnn": rnn, "jordan": bptt.nn.Jordan(4, 8, 5), "x": x, "y": y, "o": torch.zeros(6, 2, 5),
        "tape": bptt.record(model, x, y), "unfinished": tapes[0], "of_lstm": tapes[1],
        "freed": freed, "two": Two(),
    }  # fmt: skip


def answer(given: str, known: dict[str, Any]) -> tuple[str, str]:
    """What kind of an answer it gets, "exit code 2" or the name of an exception, and the message.

    Raises whatever no user should see.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if given.startswith("bptt "):
            result = CliRunner().invoke(cli.app, shlex.split(given)[1:], prog_name="bptt", env={"COLUMNS": "100"})
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            return f"exit code {result.exit_code}", plain(result.stderr)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(given, "<given>", "exec"), dict(known))
        except TYPES as error:
            return next(kind.__name__ for kind in TYPES if isinstance(error, kind)), plain(str(error))
    return "nothing", ""


def plain(message: str) -> str:
    """Without what differs from time to time: the working directory, checksums, boxes, which tensor is found first."""
    message = message.replace(f"{os.getcwd()}/", "").replace(os.getcwd(), ".")
    message = re.sub(r"[╭╮╰╯│─]", " ", message)
    message = re.sub(r"tensor `\w+`", "tensor `...`", message)
    message = re.sub(r"sha256 [0-9a-f]{12}", "sha256 000000000000", message)
    message = re.sub(r"line (\d+) column \d+", r"line \1 column 0", message)  # a header holds the version of torch
    return " ".join(message.split())


def files(at: Path) -> dict[str, object]:
    """Every file with what tells whether it was touched, and every directory."""
    return {
        str(file.relative_to(at)): None
        if file.is_dir() and not file.is_symlink()
        else (file.stat(follow_symlinks=False).st_mtime_ns, file.stat(follow_symlinks=False).st_size)
        for file in at.rglob("*")
    }


def answers() -> Iterator[tuple[str, str, str, str, str]]:
    """Section, what was given, pattern, kind of the answer and message of each, in the working directory."""
    at = Path.cwd()
    material(at)
    known = names()
    before = files(at)
    for section, given, pattern in TABLE:
        try:
            kind, message = answer(given, known)
        except BaseException as error:
            kind, message = "a traceback", f"{type(error).__name__}: {error}"
        if files(at) != before:
            kind, message = "files were touched", str(files(at).items() ^ before.items())
            before = files(at)
        yield section, given, pattern, kind, message


TABLE = [
    *((section, given, pattern) for section, entries in COMMANDS.items() for given, pattern in entries.items()),
    *((section, given, pattern) for section, entries in CODE.items() for given, pattern in entries.items()),
]
