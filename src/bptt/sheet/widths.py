"""Sizes, found from the equations: what is added or multiplied entry by entry is equally wide, a matrix maps widths.

x has width I, the output H. Numbers, scalars, constants, inputs without a size and what reduces a row have width 1 and
are used for all units. What no equation ties to a size has width H; a matrix has to be tied, or declared.
"""

from bptt.errors import InputError
from bptt.sheet.expressions import (
    Call,
    Expression,
    Name,
    Number,
    Over,
    Place,
    Product,
    Square,
    Sum,
    Times,
    Transposed,
    children,
    names,
)
from bptt.sheet.language import Sheet, parse
from bptt.sheet.names import check

Key = tuple[str, str]
"""("value", name), ("rows", matrix), ("columns", matrix), or ("size", "H")."""

ONE, I, H = ("size", "1"), ("size", "I"), ("size", "H")


def sized(text: str) -> Sheet:
    """The sheet of a text, with `widths`, `shapes` and `equal`."""
    sheet = parse(text)
    check(sheet)
    _Widths(sheet).find_all()
    return sheet


class _Widths:
    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.parents: dict[Key, Key] = {("value", "x"): I, ("value", sheet.output): H}
        for name, (size, place) in sheet.sizes.items():
            self._join(("columns" if sheet.is_matrix(name) else "value", name), ("size", size), place)
        self.narrow = self._narrow_names()
        self.products: list[tuple[Product, Key]] = []

    def find_all(self) -> None:
        for line in self.sheet.equations:
            if line.step is None and self.sheet.is_matrix(line.name):
                rows, columns = self._shape(line.value)
                self._join(("rows", line.name), rows, line.place)
                self._join(("columns", line.name), columns, line.place)
            else:
                self._join(("value", line.name), self._width(line.value), line.place)
        for product, left in self.products:
            self._fit(product, self._root(left))
        self._write()

    def _narrow_names(self) -> set[str]:
        """The names whose values have width 1: all that no wide one reaches."""
        sheet = self.sheet
        lines = [line for line in sheet.equations if not (line.step is None and sheet.is_matrix(line.name))]
        always = {n for n, given in sheet.given.items() if given.kind in ("scalar", "constant")}
        always |= {n for n, given in sheet.given.items() if given.kind == "input" and n not in sheet.sizes}
        wide = {sheet.output, *sheet.sizes}
        made = [(line.name, line.value) for line in lines]
        made += [(n, given.of) for n, given in sheet.given.items() if given.of is not None]
        narrow = {name for name, _ in made} - wide | always
        self.narrow, before = narrow, -1
        while before != len(narrow):
            before = len(narrow)
            narrow -= {name for name, value in made if not self._is_narrow(value)}
        single = [(line.name, line.place) for line in lines if line.name in wide and self._is_narrow(line.value)]
        single += [(name, place) for name, (_, place) in sheet.sizes.items() if name in always]
        for name, place in single:
            size = sheet.sizes[name][0] if name in sheet.sizes else "H"
            raise sheet.refusal(
                place,
                f"{name} has width {size}, and this makes a single number a row",
                "Bring in a product with a matrix, a vector, or another value that is so wide.",
            )
        return narrow

    def _is_narrow(self, e: Expression) -> bool:
        match e:
            case Name(name):
                return name in self.narrow
            case Product() | Transposed():
                return False
            case Call(function) if self.sheet.function(function).row == "number":
                return True
        return all(map(self._is_narrow, children(e)))

    def _root(self, key: Key) -> Key:
        while key in self.parents:
            key = self.parents[key]
        return key

    def _join(self, a: Key, b: Key, place: Place | None) -> Key:
        """Makes two sizes one; that I and H have to be equal is noted. `ONE` beside a width changes nothing."""
        a, b = self._root(a), self._root(b)
        if a == b or b == ONE:
            return a
        if a == ONE:
            return b
        if a[0] == b[0] == "size":
            if {a, b} != {I, H}:
                raise self.sheet.refusal(
                    place,
                    f"widths that meet have to be equal; here {a[1]} meets {b[1]}",
                    "A product with a matrix maps one width to another: s_t W_sh.",
                )
            assert place is not None
            self.sheet.equal.append(("I", "H", place))
            a, b = I, H
        elif a[0] == "size":
            a, b = b, a
        self.parents[a] = b
        return b

    def _width(self, e: Expression) -> Key:
        match e:
            case Name(name):
                if self.sheet.is_matrix(name):
                    raise self._misplaced(e)
                return ONE if name in self.narrow else self._root(("value", name))
            case Product(left, right):
                self.products.append((e, self._width(left)))
                return self._sides(right)[1]
            case Transposed():
                raise self._misplaced(e)
        width = ONE
        for part in children(e):
            width = self._join(width, self._width(part), part.place)
        return ONE if isinstance(e, Call) and self.sheet.function(e.function).row == "number" else width

    def _misplaced(self, e: Expression) -> InputError:
        advice = "A line that makes a matrix begins with a capital."
        return self.sheet.refusal(e.place, "a matrix stands where a vector has to", advice)

    def _sides(self, matrix: Expression) -> tuple[Key, Key]:
        """Rows and columns of a matrix, transposed or not."""
        if isinstance(matrix, Transposed):
            rows, columns = self._sides(matrix.of)
            return columns, rows
        assert isinstance(matrix, Name)
        if matrix.name == "I":
            return ("rows", f"I {matrix.place}"), ("rows", f"I {matrix.place}")
        return self._root(("rows", matrix.name)), self._root(("columns", matrix.name))

    def _fit(self, product: Product, left: Key) -> None:
        """The rows of the matrix are as many as its left side is wide."""
        rows = self._root(self._sides(product.right)[0])
        if rows[0] == left[0] == "size" and rows != left:
            (name,) = {part.name for part in names(product.right)}
            raise self.sheet.refusal(
                product.place,
                f"{name} is used with two shapes: left sides are {left[1]} and {rows[1]} wide",
                "Give each use a matrix of its own: W_xh for x_t, W_hh for h_{t-1}.",
            )
        if rows != left:
            a, b = (left, rows) if rows[0] == "size" else (rows, left)
            self.parents[a] = b

    def _shape(self, e: Expression) -> tuple[Key, Key]:
        """Of an expression of matrices, in a fixed line."""
        match e:
            case Name(name) if not self.sheet.is_matrix(name):
                raise self.sheet.refusal(
                    e.place,
                    f"{name} is no matrix, and this line makes one",
                    "Numbers and scalars may multiply a matrix: γ ⊙ I. A vector's line begins with a small letter.",
                )
            case Name() | Transposed():
                return self._sides(e)
            case Product(left, right):
                (rows, inner), (other, columns) = self._shape(left), self._shape(right)
                self._join(inner, other, e.place)
                return rows, columns
            case Square(of):
                return self._shape(of)
            case Over(above, below) if self._is_narrow(below):
                return self._shape(above)
            case Sum():
                return self._all_shapes(children(e), e)
            case Times(factors):
                return self._all_shapes(tuple(f for f in factors if not self._is_narrow(f)), e)
            case Call(function, arguments) if self.sheet.function(function).row == "" and len(arguments) == 1:
                return self._shape(arguments[0])
        raise self.sheet.refusal(
            e.place,
            "a line whose name begins with a capital makes a matrix, and this is none",
            "Such lines hold matrices, transposes, products, sums, numbers before ⊙ and functions entry by entry.",
        )

    def _all_shapes(self, parts: tuple[Expression, ...], whole: Expression) -> tuple[Key, Key]:
        if not parts:
            return self._shape(Number(1.0, place=whole.place))
        rows, columns = self._shape(parts[0])
        for part in parts[1:]:
            more, across = self._shape(part)
            rows, columns = self._join(rows, more, part.place), self._join(columns, across, part.place)
        return rows, columns

    def _write(self) -> None:
        sheet = self.sheet
        values = ["x", *(line.name for line in sheet.steps), *(n for n, g in sheet.given.items() if g.kind != "matrix")]
        values += [line.name for line in sheet.fixed if not sheet.is_matrix(line.name)]
        tied = {self._root(("value", name)) for name in values}
        for name in values:
            root = self._root(("value", name))
            sheet.widths[name] = "1" if name in self.narrow else root[1] if root[0] == "size" else "H"
        matrices = [n for n, given in sheet.given.items() if given.kind == "matrix"]
        for name in [*matrices, *(line.name for line in sheet.fixed if sheet.is_matrix(line.name))]:
            sheet.shapes[name] = self._size(name, "rows", tied), self._size(name, "columns", tied)

    def _size(self, matrix: str, side: str, tied: set[Key]) -> str:
        root = self._root((side, matrix))
        if root[0] == "size":
            return root[1]
        if root in tied:
            return "H"
        places = [name.place for line in self.sheet.equations for name in names(line.value) if name.name == matrix]
        raise self.sheet.refusal(
            places[0] if places else None,
            f"nothing ties the {side} of {matrix} to a size",
            "Declare one. Of V_1 V_2, for example, it is V_1 : size R, the columns of V_1.",
        )
