"""The functions that a cell may use: one table. A new function is one line of it.

The way back is text in the language of cells: `a b c` are the arguments, `y` is the value and `d` its cotangent. It is
written by the value where that is possible, so that the argument need not be kept. Functions that only the way back
uses stand at the end; `size(a)` there is how many units a row of `a` has. What chooses (`where_...`) gives 0 where its
condition is false, and does not multiply by 0, so that an infinite `d` does not become NaN.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """One line of the table.

    means      the value, as docs/sheet.md has it
    back       for each argument what it is sent back; None: nothing, it has to be a number or a constant
    row        "" entry by entry; "row" a row from a whole row; "number" one number from a row
    tex        how TeX writes its name; "": upright, as it is
    twins      other ways to type it
    form       how it is written where that is not name(arguments), in text and in TeX
    typed      whether a cell may use it
    """

    name: str
    means: str
    back: tuple[str | None, ...]
    row: str = ""
    tex: str = ""
    twins: tuple[str, ...] = ()
    form: str = ""
    typed: bool = True


_TABLE = (
    Function("tanh", "(exp(a) − exp(−a)) / (exp(a) + exp(−a))", ("d ⊙ (1 − y²)",), tex=r"\tanh"),
    Function("σ", "1 / (1 + exp(−a))", ("d ⊙ y ⊙ (1 − y)",), tex=r"\sigma", twins=("sigmoid", "sigma")),
    Function("relu", "a where a > 0, else 0", ("where_positive(d, y)",)),
    Function("identity", "a", ("d",), twins=("id",)),
    Function("exp", "e to the power of a", ("d ⊙ y",), tex=r"\exp"),
    Function("log", "natural logarithm of a", ("d / a",), tex=r"\log"),
    Function("sqrt", "square root of a", ("d / (2 ⊙ y)",)),
    Function("softplus", "log(1 + exp(a))", ("d ⊙ σ(a)",)),
    Function("abs", "a without its sign", ("d ⊙ sign(a)",)),
    Function("max", "the larger of a and b", ("where_at_least(d, a, b)", "where_below(d, a, b)"), tex=r"\max"),
    Function("min", "the smaller of a and b", ("where_at_least(d, b, a)", "where_below(d, b, a)"), tex=r"\min"),
    Function("clip", "a, but at least b and at most c", ("where_inside(d, a, b, c)", None, None)),
    Function("scale_gradient", "a; the way back alone knows the factor b", ("b ⊙ d", None)),
    Function(
        "norm", "(a − mean(a)) ⊙ scale(a), over the units of a row",
        ("scale(a) ⊙ (d − mean(d) − y ⊙ mean(d ⊙ y))",), row="row",
    ),
    Function("softmax", "exp(a) / sum(exp(a)), over the units of a row", ("y ⊙ (d − sum(d ⊙ y))",), row="row"),
    Function("sum", "sum over the units of a row", ("d",), row="number"),
    Function("mean", "mean over the units of a row", ("d / size(a)",), row="number"),
    # the way back alone
    Function("size", "how many units a row of a has, in side B the size itself: H", (None,), row="number", typed=False),
    Function("scale", "1 / √(variance(a) + 10⁻⁵), over the units of a row", (None,), row="number", typed=False),
    Function("total", "sum over all entries of a matrix", (None,), row="number", typed=False),
    Function("sign", "1, 0 or −1", (None,), typed=False),
    Function("where_positive", "a where b > 0, else 0", (None,) * 2, form="{0} ⊙ [{1} > 0]", typed=False),
    Function("where_at_least", "a where b ≥ c, else 0", (None,) * 3, form="{0} ⊙ [{1} ≥ {2}]", typed=False),
    Function("where_below", "a where b < c, else 0", (None,) * 3, form="{0} ⊙ [{1} < {2}]", typed=False),
    Function("where_inside", "a where c ≤ b ≤ d, else 0", (None,) * 4, form="{0} ⊙ [{2} ≤ {1} ≤ {3}]", typed=False),
)  # fmt: skip

FUNCTIONS = {function.name: function for function in _TABLE}
TYPED = {name: function.name for function in _TABLE if function.typed for name in (function.name, *function.twins)}
