"""Translate a JAX function to JavaScript: its jaxpr, equation by equation.

The generated function takes and returns the leaves of the arguments and results: a scalar is a
number or a boolean, an array a flat JavaScript array in row-major order. No argument is changed.

Shapes are static, so most of the work is done here. An array of at most `SMALL` elements becomes
one variable an element. Slices, reshapes and broadcasts of these cost nothing: they only rename.
A larger array stays a JavaScript array, and its operations become loops. Equal expressions are
computed once, and what no result needs is left out.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Jaxpr, Literal

SMALL = 8  # elements that become variables of their own

# float64 and bool as in JAX; int32 wraps around; int64 is exact up to 2^53.
DTYPES = ("float64", "int64", "int32", "bool")

# Primitives that call a jaxpr, and the parameter that holds it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}


class UnknownPrimitiveError(NotImplementedError):
    """A jaxpr holds something that has no translation."""


class Value(NamedTuple):
    """A traced array in the generated code.

    Attributes:
      shape: its shape.
      dtype: one of `DTYPES`.
      atoms: a name or literal for each element, if there are at most `SMALL`.
      array: the name of a flat JavaScript array otherwise.
    """

    shape: tuple[int, ...]
    dtype: str
    atoms: tuple[str, ...] | None
    array: str = ""

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def at(self, i: int | str) -> str:
        """The element at a flat index; an index that is a string is an expression."""
        if self.atoms is None:
            return f"{self.array}[{i}]"
        if isinstance(i, int):
            return self.atoms[i]
        (atom,) = self.atoms  # a scalar, the same at every index
        return atom


class Const(NamedTuple):
    """The statement ``const name=expression;``."""

    name: str
    expression: str


class Text(NamedTuple):
    """A statement that is always kept."""

    code: str


class Block(NamedTuple):
    """``head{ body }``."""

    head: str
    body: list[Any]


Statement = Const | Text | Block


def translate(name: str, function: Callable[..., Any], *examples: Any) -> str:
    """Translate a function of arrays to a JavaScript function of the same mathematics.

    Args:
      name: of the JavaScript function.
      function: of trees of arrays, traceable by `jax.make_jaxpr`.
      examples: arguments, or their shapes and dtypes. Run it under ``jax.enable_x64(True)``.

    Returns:
      The source. The function needs the helpers of ``runtime.js``.

    Raises:
      UnknownPrimitiveError: if the jaxpr has a primitive or a dtype without a translation.
    """
    return _Translator().function(name, jax.make_jaxpr(function)(*examples))


class _Translator:
    """The state of one translation: names, and what has been computed in the open blocks."""

    def __init__(self) -> None:
        self.count = 0
        self.body: list[Statement] = []
        self.known: list[dict[str, str]] = [{}]

    # Statements

    def fresh(self) -> str:
        self.count += 1
        return f"_{np.base_repr(self.count, 36).lower()}"

    def bind(self, expression: str) -> str:
        """The name of an expression, which is computed once in a block and the blocks within."""
        if _is_atom(expression):
            return expression
        for known in self.known:
            if expression in known:
                return known[expression]
        name = self.fresh()
        self.body.append(Const(name, expression))
        self.known[-1][expression] = name
        return name

    def nested(self, build: Callable[[], Any]) -> tuple[list[Statement], Any]:
        """The statements that a function adds, as the body of a block, and what it returns."""
        outer, self.body = self.body, []
        self.known.append({})
        result = build()
        self.known.pop()
        body, self.body = self.body, outer
        return body, result

    # Values

    def literal(self, value: Any) -> Value:
        array = np.asarray(value)
        dtype = _checked_dtype(array.dtype, "a constant")
        atoms = [_number(x, dtype) for x in array.ravel().tolist()]
        return self.build(array.shape, dtype, atoms)

    def build(self, shape: Sequence[int], dtype: str, expressions: Sequence[str]) -> Value:
        """A value from an expression an element."""
        if len(expressions) <= SMALL:
            atoms = tuple(self.bind(expression) for expression in expressions)
            return Value(tuple(shape), dtype, atoms)
        if len(set(expressions)) == 1:
            return self.large(shape, dtype, f"fill({len(expressions)},{expressions[0]})")
        return self.large(shape, dtype, f"[{','.join(expressions)}]")

    def large(self, shape: Sequence[int], dtype: str, expression: str) -> Value:
        """A value from an expression of a flat array."""
        name, size = self.bind(expression), math.prod(shape)
        if size > SMALL:
            return Value(tuple(shape), dtype, None, name)
        return self.build(shape, dtype, [f"{name}[{i}]" for i in range(size)])

    def as_array(self, value: Value) -> str:
        """The name of a flat JavaScript array of a value."""
        return value.array if value.atoms is None else self.bind(f"[{','.join(value.atoms)}]")

    def take(self, value: Value, indices: np.ndarray, dtype: str | None = None) -> Value:
        """The value whose elements are those at static flat indices, in their shape."""
        dtype, flat = dtype or value.dtype, indices.ravel().tolist()
        if value.atoms is None and len(flat) > SMALL:
            if flat == list(range(value.size)):
                return value._replace(shape=indices.shape)
            return self.large(indices.shape, dtype, f"take({value.array},{_short(flat)})")
        return self.build(indices.shape, dtype, [value.at(i) for i in flat])

    def output(self, value: Value) -> str:
        """The JavaScript value that a generated function returns."""
        if value.atoms is None:
            return value.array
        return f"[{','.join(value.atoms)}]" if value.shape else value.atoms[0]

    def declare(self, like: Value, start: Value | None) -> Value:
        """Variables of the shape and dtype of a value, which are assigned to."""
        count = 1 if like.atoms is None else len(like.atoms)
        names = [self.fresh() for _ in range(count)]
        if names:
            starts = [f"={text}" for text in _parts(start)] if start else [""] * count
            pairs = zip(names, starts, strict=True)
            self.body.append(Text(f"let {','.join(name + text for name, text in pairs)};"))
        if like.atoms is None:
            return like._replace(array=names[0])
        return like._replace(atoms=tuple(names))

    def assign(self, targets: Sequence[Value], values: Sequence[Value]) -> None:
        """Assign all at once: a value may hold a target."""
        pairs = [
            pair
            for target, value in zip(targets, values, strict=True)
            for pair in zip(_parts(target), _parts(value), strict=True)
            if pair[0] != pair[1]
        ]
        names = {name for name, _ in pairs}
        copies: dict[str, str] = {}
        for text in dict.fromkeys(text for _, text in pairs if text in names):
            copies[text] = self.fresh()
            self.body.append(Const(copies[text], text))
        for name, text in pairs:
            self.body.append(Text(f"{name}={copies.get(text, text)};"))

    # Jaxprs

    def function(self, name: str, closed: Any) -> str:
        parameters, arguments = [], []
        for var in closed.jaxpr.invars:
            parameter = self.fresh()
            parameters.append(parameter)
            arguments.append(self.parameter(parameter, var.aval))
        results = self.call(closed, arguments)
        self.body.append(Text(f"return [{','.join(map(self.output, results))}];"))
        _remove_unused(self.body, set())
        return f"function {name}({','.join(parameters)}){{\n{_render(self.body)}}}\n"

    def parameter(self, name: str, aval: Any) -> Value:
        dtype = _checked_dtype(aval.dtype, "an argument")
        if aval.shape == ():
            return Value((), dtype, (name,))
        return self.large(aval.shape, dtype, name)

    def call(self, closed: Any, arguments: Sequence[Value]) -> list[Value]:
        """Inline a jaxpr."""
        jaxpr: Jaxpr = getattr(closed, "jaxpr", closed)
        consts = [self.literal(const) for const in getattr(closed, "consts", ())]
        values = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= zip(jaxpr.invars, arguments, strict=True)

        def read(var: Any) -> Value:
            return self.literal(var.val) if isinstance(var, Literal) else values[var]

        for equation in jaxpr.eqns:
            name, params = equation.primitive.name, equation.params
            operands = [read(var) for var in equation.invars]
            if name in CALLS:
                results = self.call(params[CALLS[name]], operands)
            elif name in ELEMENTWISE:
                results = [self.elementwise(name, operands, params, equation.outvars[0].aval)]
            elif name in PRIMITIVES:
                results = PRIMITIVES[name](self, operands, params, equation.outvars)
            else:
                raise UnknownPrimitiveError(
                    f"the primitive {name} has no translation to JavaScript; add one to "
                    f"{__name__}. It stands in: {str(equation)[:200]}"
                )
            values |= zip(equation.outvars, results, strict=True)
        return [read(var) for var in jaxpr.outvars]

    def elementwise(self, name: str, operands: list[Value], params: Any, aval: Any) -> Value:
        dtype = _checked_dtype(aval.dtype, name)
        kind = operands[-1].dtype
        operands = [  # axes of size 1 may be stretched
            x
            if x.shape in ((), aval.shape)
            else self.take(x, np.broadcast_to(_indices(x), aval.shape))
            for x in operands
        ]

        def expression(i: int | str) -> str:
            scalars = (x.at(0 if not x.shape else i) for x in operands)
            return ELEMENTWISE[name](kind, params, *scalars)

        size = math.prod(aval.shape)
        if size <= SMALL:
            return self.build(aval.shape, dtype, [expression(i) for i in range(size)])
        return self.large(aval.shape, dtype, f"make({size},i=>{expression('i')})")


def _parts(value: Value) -> Sequence[str]:
    return [value.array] if value.atoms is None else value.atoms


def _is_atom(text: str) -> bool:
    number = r"(\d[\d.]*(e[-+]?\d+)?|Infinity)"
    return re.fullmatch(rf"[a-zA-Z_]\w*|{number}|\(-{number}\)", text) is not None


def _number(x: Any, dtype: str) -> str:
    if dtype == "bool":
        return "true" if x else "false"
    if math.isnan(x):
        return "NaN"
    text = "Infinity" if math.isinf(x) else repr(abs(x)).removesuffix(".0")
    return f"(-{text})" if math.copysign(1, x) < 0 else text


def _short(indices: list[int]) -> str:
    return json.dumps(indices, separators=(",", ":"))


def _checked_dtype(dtype: Any, what: str) -> str:
    if str(dtype) not in DTYPES:
        raise UnknownPrimitiveError(
            f"{what} has the dtype {dtype}, which has no translation to JavaScript; "
            f"there are {', '.join(DTYPES)} (enable x64 for float64)"
        )
    return str(dtype)


def _remove_unused(body: list[Statement], used: set[str]) -> None:
    """Remove the constants that nothing after them reads; ``used`` grows by what is read."""
    for i in range(len(body) - 1, -1, -1):
        statement = body[i]
        if isinstance(statement, Block):
            _remove_unused(statement.body, used)
            used |= _names(statement.head)
        elif isinstance(statement, Text):
            used |= _names(statement.code)
        elif statement.name in used:
            used |= _names(statement.expression)
        else:
            del body[i]


def _names(code: str) -> set[str]:
    return set(re.findall(r"\b_[0-9a-z]+\b", code))


def _render(body: list[Statement]) -> str:
    lines, constants = [], []
    for statement in [*body, None]:
        if isinstance(statement, Const):
            constants.append(f"{statement.name}={statement.expression}")
            continue
        if constants:
            lines.append(f"const {','.join(constants)};\n")
            constants = []
        if isinstance(statement, Block):
            lines.append(f"{statement.head}{{\n{_render(statement.body)}}}\n")
        elif statement:
            lines.append(f"{statement.code}\n")
    return "".join(lines)


# Elementwise primitives: (dtype of the last operand, parameters, operands) -> expression.


def _arithmetic(operator: str) -> Callable[..., str]:
    def expression(dtype: str, params: Any, x: str, y: str) -> str:
        del params
        return _wrapped(dtype, f"{x}{operator}{y}")

    return expression


def _wrapped(dtype: str, text: str) -> str:
    return f"({text})|0" if dtype == "int32" else text


def _times(dtype: str, params: Any, x: str, y: str) -> str:
    del params
    return f"Math.imul({x},{y})" if dtype == "int32" else f"{x}*{y}"


def _divided(dtype: str, params: Any, x: str, y: str) -> str:
    del params
    return f"{x}/{y}" if dtype == "float64" else f"divide({x},{y})"


def _remainder(dtype: str, params: Any, x: str, y: str) -> str:
    del params
    return f"{x}%{y}" if dtype == "float64" else f"remainder({x},{y})"


def _compared(operator: str) -> Callable[..., str]:
    return lambda dtype, params, x, y: f"{x}{operator}{y}"


def _logical(operator: str) -> Callable[..., str]:
    """``and`` and ``or``; the bits of integers."""
    return lambda dtype, params, x, y: f"{x}{operator * (2 if dtype == 'bool' else 1)}{y}"


def _math(function: str) -> Callable[..., str]:
    def expression(dtype: str, params: Any, *x: str) -> str:
        del dtype, params
        return f"{function}({','.join(x)})"

    return expression


def _integer_power(dtype: str, params: Any, x: str) -> str:
    """By repeated multiplication, in the order in which XLA does it."""
    exponent = params["y"]
    if exponent == 0:
        return "1"
    text, square, left = "", x, abs(exponent)
    while left:
        if left & 1:
            text = f"({_times(dtype, None, text, square)})" if text else square
        square, left = f"({_times(dtype, None, square, square)})", left >> 1
    return f"1/{text}" if exponent < 0 else text


def _converted(dtype: str, params: Any, x: str) -> str:
    new = str(params["new_dtype"])
    if new == dtype:
        return x
    if new == "bool":
        return f"{x}!=0"
    if dtype == "bool":
        return f"+{x}"
    if dtype == "float64":
        return f"Math.trunc({x})" if new == "int64" else f"toInt32({x})"
    return f"{x}|0" if new == "int32" else x


def _chosen(dtype: str, params: Any, which: str, *cases: str) -> str:
    del dtype, params
    if which in ("true", "false"):
        return cases[which == "true"]
    if len(cases) == 2:
        return cases[0] if cases[0] == cases[1] else f"{which}?{cases[1]}:{cases[0]}"
    return f"[{','.join(cases)}][{which}]"


ELEMENTWISE: dict[str, Callable[..., str]] = {
    "add": _arithmetic("+"),
    "add_any": _arithmetic("+"),
    "sub": _arithmetic("-"),
    "mul": _times,
    "div": _divided,
    "rem": _remainder,
    "neg": lambda dtype, params, x: _wrapped(dtype, f"-{x}"),
    "eq": _compared("==="),
    "ne": _compared("!=="),
    "lt": _compared("<"),
    "le": _compared("<="),
    "gt": _compared(">"),
    "ge": _compared(">="),
    "and": _logical("&"),
    "or": _logical("|"),
    "xor": lambda dtype, params, x, y: f"{x}!=={y}" if dtype == "bool" else f"{x}^{y}",
    "not": lambda dtype, params, x: f"!{x}" if dtype == "bool" else f"~{x}",
    "max": _math("Math.max"),
    "min": _math("Math.min"),
    "clamp": lambda dtype, params, low, x, high: f"Math.min(Math.max({low},{x}),{high})",
    "abs": _math("Math.abs"),
    "sign": _math("Math.sign"),
    "floor": _math("Math.floor"),
    "ceil": _math("Math.ceil"),
    "round": lambda dtype, params, x: f"round({x},{int(params['rounding_method'])})",
    "sqrt": _math("Math.sqrt"),
    "rsqrt": lambda dtype, params, x: f"1/Math.sqrt({x})",
    "square": lambda dtype, params, x: _times(dtype, params, x, x),
    "pow": _math("Math.pow"),
    "integer_pow": _integer_power,
    "exp": _math("Math.exp"),
    "expm1": _math("Math.expm1"),
    "log": _math("Math.log"),
    "log1p": _math("Math.log1p"),
    "sin": _math("Math.sin"),
    "cos": _math("Math.cos"),
    "tanh": _math("Math.tanh"),
    "is_finite": _math("Number.isFinite"),
    "select_n": _chosen,
    "convert_element_type": _converted,
    "copy": lambda dtype, params, x: x,
    "stop_gradient": lambda dtype, params, x: x,
}


# All other primitives: (translator, operands, parameters, result variables) -> results.


def _indices(value: Value) -> np.ndarray:
    return np.arange(value.size).reshape(value.shape)


def _same(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del t, params, outvars
    return operands


def _broadcast(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del outvars
    value, shape, dimensions = operands[0], params["shape"], params["broadcast_dimensions"]
    aligned = [1] * len(shape)
    for axis, size in zip(dimensions, value.shape, strict=True):
        aligned[axis] = size
    return [t.take(value, np.broadcast_to(_indices(value).reshape(aligned), shape))]


def _reshaped(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    """``reshape`` and ``squeeze``: the same elements in the same order."""
    del t, params
    return [operands[0]._replace(shape=tuple(outvars[0].aval.shape))]


def _transposed(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del outvars
    return [t.take(operands[0], np.transpose(_indices(operands[0]), params["permutation"]))]


def _reversed(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del outvars
    return [t.take(operands[0], np.flip(_indices(operands[0]), params["dimensions"]))]


def _sliced(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del outvars
    steps = params["strides"] or [None] * len(params["start_indices"])
    limits = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return [t.take(operands[0], _indices(operands[0])[tuple(slice(*limit) for limit in limits)])]


def _split(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del outvars
    ends = np.cumsum(params["sizes"])[:-1]
    parts = np.split(_indices(operands[0]), ends, axis=params["axis"])
    return [t.take(operands[0], part) for part in parts]


def _unstacked(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del outvars
    rows = np.moveaxis(_indices(operands[0]), params["axis"], 0)
    return [t.take(operands[0], row) for row in rows]


def _joined(t: _Translator, values: Sequence[Value], indices: np.ndarray) -> Value:
    """The elements of several values, at flat indices into all of them, one after the other."""
    texts = [value.at(i) for value in values for i in range(value.size)]
    return t.build(indices.shape, values[0].dtype, [texts[i] for i in indices.ravel()])


def _concatenated(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del outvars
    starts = np.cumsum([0, *(value.size for value in operands)])
    parts = [start + _indices(x) for start, x in zip(starts, operands, strict=False)]
    return [_joined(t, operands, np.concatenate(parts, axis=params["dimension"]))]


def _stacked(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del outvars
    starts = np.cumsum([0, *(value.size for value in operands)])
    parts = [start + _indices(x) for start, x in zip(starts, operands, strict=False)]
    return [_joined(t, operands, np.stack(parts, axis=params["axis"]))]


def _padded(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    value, padding = operands
    indices = np.full(outvars[0].aval.shape, value.size)
    source = _indices(value)
    places, kept = [], []
    for axis, (low, _, interior) in enumerate(params["padding_config"]):
        position = low + (interior + 1) * np.arange(value.shape[axis])
        inside = (position >= 0) & (position < indices.shape[axis])
        places.append(position[inside])
        kept.append(np.flatnonzero(inside))
    if indices.size and source.size:
        indices[np.ix_(*places)] = source[np.ix_(*kept)]
    return [_joined(t, [value, padding], indices)]


def _iota(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del operands, outvars
    shape, axis = params["shape"], params["dimension"]
    numbers = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return [t.literal(np.broadcast_to(numbers, shape).astype(params["dtype"]))]


def _groups(value: Value, batch: Sequence[int], contracted: Sequence[int]) -> np.ndarray:
    """The flat indices for each element of a product or reduction: (batch, free, contracted)."""
    free = [i for i in range(len(value.shape)) if i not in (*batch, *contracted)]
    sizes = [math.prod(value.shape[i] for i in axes) for axes in (batch, free, contracted)]
    return np.transpose(_indices(value), (*batch, *free, *contracted)).reshape(sizes)


def _reduced(join: Callable[[str, Sequence[str]], str]) -> Callable[..., list[Value]]:
    """A reduction, from the expression of the elements of one group."""

    def primitive(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
        value, aval = operands[0], outvars[0].aval
        (groups,) = _groups(value, (), params["axes"])
        texts = [join(value.dtype, [value.at(int(i)) for i in group]) for group in groups]
        return [t.build(aval.shape, str(aval.dtype), texts)]

    return primitive


def _sum(dtype: str, terms: Sequence[str]) -> str:
    return _wrapped(dtype, "+".join(terms) or "0")


def _product(dtype: str, factors: Sequence[str]) -> str:
    text = "1"
    for factor in factors:
        text = _times(dtype, None, text, factor)
    return text


def _folded(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    """Reductions of several arrays: a jaxpr takes the results so far, then an element of each."""
    half = len(operands) // 2
    arrays, starts = operands[:half], operands[half:]
    (groups,) = _groups(arrays[0], (), params["dimensions"])
    columns: list[list[str]] = [[] for _ in arrays]
    for group in groups:
        results = starts
        for i in group:
            elements = [t.take(x, i) for x in arrays]
            results = t.call(params["jaxpr"], [*results, *elements])
        for column, result in zip(columns, results, strict=True):
            column.append(result.at(0))
    return [
        t.build(var.aval.shape, start.dtype, column)
        for var, start, column in zip(outvars, starts, columns, strict=True)
    ]


def _extreme(sign: int) -> Callable[..., list[Value]]:
    """The index of the first largest or smallest element; of the first NaN, if there is one."""

    def primitive(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
        value, aval = operands[0], outvars[0].aval
        (groups,) = _groups(value, (), params["axes"])
        texts = [
            f"largest([{','.join(value.at(int(i)) for i in group)}],{sign})" for group in groups
        ]
        return [t.build(aval.shape, _checked_dtype(aval.dtype, "argmax"), texts)]

    return primitive


def _cumulative(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del outvars
    value, axis = operands[0], params["axis"]
    lines = np.moveaxis(_indices(value), axis, -1).reshape(-1, value.shape[axis])
    texts = [""] * value.size
    for line in lines.tolist():
        total = ""
        for i in line[::-1] if params["reverse"] else line:
            total = (
                t.bind(_wrapped(value.dtype, f"{total}+{value.at(i)}")) if total else value.at(i)
            )
            texts[i] = total
    return [t.build(value.shape, value.dtype, texts)]


def _dot(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    x, y = operands
    (contracted_x, contracted_y), (batch_x, batch_y) = params["dimension_numbers"]
    rows = _groups(x, batch_x, contracted_x)
    columns = _groups(y, batch_y, contracted_y)
    texts = [
        _sum(x.dtype, [f"{x.at(int(i))}*{y.at(int(j))}" for i, j in zip(row, column, strict=True)])
        for of_x, of_y in zip(rows, columns, strict=True)
        for row in of_x
        for column in of_y
    ]
    aval = outvars[0].aval
    return [t.build(aval.shape, _checked_dtype(aval.dtype, "dot_general"), texts)]


def _base(t: _Translator, value: Value, starts: Sequence[Value], sizes: Sequence[int]) -> str:
    """The flat index where a dynamic slice begins; starts are clamped as in XLA."""
    terms, stride = [], value.size
    for start, size, extent in zip(starts, sizes, value.shape, strict=True):
        stride //= extent
        if extent > size:
            terms.append(f"Math.min(Math.max({start.at(0)},0),{extent - size})*{stride}")
    return t.bind("+".join(terms) or "0")


def _dynamic_slice(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    value, *starts = operands
    base = _base(t, value, starts, params["slice_sizes"])
    offsets = _indices(value)[tuple(slice(size) for size in params["slice_sizes"])]
    array = t.as_array(value)
    texts = [f"{array}[{base}+{i}]" for i in offsets.ravel().tolist()]
    return [t.build(outvars[0].aval.shape, value.dtype, texts)]


def _dynamic_update(
    t: _Translator, operands: list[Value], params: Any, outvars: Any
) -> list[Value]:
    del params, outvars
    value, new, *starts = operands
    base = _base(t, value, starts, new.shape)
    offsets = _indices(value)[tuple(slice(size) for size in new.shape)].ravel().tolist()
    array = f"put({t.as_array(value)},{base},{_short(offsets)},{t.as_array(new)})"
    return [t.large(value.shape, value.dtype, array)]


def _eigh(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    value = operands[0]
    n = value.shape[-1]
    if value.shape != (n, n):
        raise UnknownPrimitiveError(f"eigh of a batch, {value.shape}, has no translation")
    indices = _indices(value)
    lower = np.tril(indices)
    symmetric = lower + np.tril(lower, -1).T if params["lower"] else np.triu(indices)
    symmetric = symmetric if params["lower"] else symmetric + np.triu(symmetric, 1).T
    result = t.bind(f"eigh({t.as_array(t.take(value, symmetric))},{n})")
    parts = {1: f"{result}.values", 2: f"{result}.vectors"}
    return [t.large(var.aval.shape, value.dtype, parts[len(var.aval.shape)]) for var in outvars]


def _while(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    del outvars
    condition_count, body_count = params["cond_nconsts"], params["body_nconsts"]
    of_condition, rest = operands[:condition_count], operands[condition_count:]
    of_body, starts = rest[:body_count], rest[body_count:]
    carry = [t.declare(start, start) for start in starts]

    def loop() -> None:
        (goes_on,) = t.call(params["cond_jaxpr"], [*of_condition, *carry])
        t.body.append(Text(f"if(!{goes_on.at(0)})break;"))
        t.assign(carry, t.call(params["body_jaxpr"], [*of_body, *carry]))

    body, _ = t.nested(loop)
    t.body.append(Block("for(;;)", body))
    return carry


def _cond(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    which, *arguments = operands
    if params.get("branches_platforms") is not None:
        return t.call(params["branches"][_cpu(params["branches_platforms"])], arguments)
    avals = [var.aval for var in outvars]
    results = [t.declare(_like(aval), None) for aval in avals]
    branches, index = params["branches"], which.at(0)
    for i, branch in enumerate(branches):

        def assign(branch: Any = branch) -> None:
            t.assign(results, t.call(branch, arguments))

        body, _ = t.nested(assign)
        test = f"if({index}<={i})" if which.dtype != "bool" else f"if(!{index})"
        head = test if i == 0 else f"else {test}" if i < len(branches) - 1 else "else"
        t.body.append(Block(head, body))
    return results


def _platform_index(
    t: _Translator, operands: list[Value], params: Any, outvars: Any
) -> list[Value]:
    del operands, outvars
    return [t.literal(np.int32(_cpu(params["platforms"])))]


def _cpu(platforms: Sequence[tuple[str, ...] | None]) -> int:
    """Which branch of `jax.lax.platform_dependent` runs on CPU; None is any other platform."""
    return next(i for i, names in enumerate(platforms) if names is None or "cpu" in names)


def _like(aval: Any) -> Value:
    dtype, size = _checked_dtype(aval.dtype, "a result"), math.prod(aval.shape)
    return Value(aval.shape, dtype, ("",) * size if size <= SMALL else None)


def _scan(t: _Translator, operands: list[Value], params: Any, outvars: Any) -> list[Value]:
    # A column has one axis more than its row in the body; the parameters differ between versions.
    body_in, body_out = (getattr(params["jaxpr"].jaxpr, name) for name in ("invars", "outvars"))
    rows_in = sum(x.shape != var.aval.shape for x, var in zip(operands, body_in, strict=True))
    rows_out = sum(x.aval.shape != var.aval.shape for x, var in zip(outvars, body_out, strict=True))
    num_carry, length = len(outvars) - rows_out, params["length"]
    num_consts = len(operands) - rows_in - num_carry
    consts, rest = operands[:num_consts], operands[num_consts:]
    starts, columns = rest[:num_carry], rest[num_carry:]
    carry = [t.declare(start, start) for start in starts]
    arrays = [t.as_array(column) for column in columns]
    stacked = [var.aval for var in outvars[num_carry:]]
    collected = [t.fresh() for _ in stacked]
    for name in collected:
        t.body.append(Text(f"const {name}=[];"))
    counter = t.fresh()

    def loop() -> None:
        rows = []
        for column, array in zip(columns, arrays, strict=True):
            shape, size = column.shape[1:], math.prod(column.shape[1:])
            texts = [f"{array}[{counter}*{size}+{j}]" for j in range(size)]
            rows.append(t.build(shape, column.dtype, texts))
        results = t.call(params["jaxpr"], [*consts, *carry, *rows])
        for name, result in zip(collected, results[num_carry:], strict=True):
            size = result.size
            for j in range(size):
                t.body.append(Text(f"{name}[{counter}*{size}+{j}]={result.at(j)};"))
        t.assign(carry, results[:num_carry])

    body, _ = t.nested(loop)
    forwards = f"for(let {counter}=0;{counter}<{length};{counter}++)"
    backwards = f"for(let {counter}={length - 1};{counter}>=0;{counter}--)"
    t.body.append(Block(backwards if params["reverse"] else forwards, body))
    ys = [
        t.large(aval.shape, _checked_dtype(aval.dtype, "scan"), name)
        for aval, name in zip(stacked, collected, strict=True)
    ]
    return [*carry, *ys]


PRIMITIVES: dict[str, Callable[..., list[Value]]] = {
    "optimization_barrier": _same,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "transpose": _transposed,
    "rev": _reversed,
    "slice": _sliced,
    "split": _split,
    "unstack": _unstacked,
    "stack": _stacked,
    "concatenate": _concatenated,
    "pad": _padded,
    "iota": _iota,
    "reduce_sum": _reduced(_sum),
    "reduce_prod": _reduced(_product),
    "reduce_max": _reduced(lambda dtype, terms: f"Math.max({','.join(terms)})"),
    "reduce_min": _reduced(lambda dtype, terms: f"Math.min({','.join(terms)})"),
    "reduce_and": _reduced(lambda dtype, terms: "&&".join(terms) or "true"),
    "reduce_or": _reduced(lambda dtype, terms: "||".join(terms) or "false"),
    "reduce": _folded,
    "argmax": _extreme(1),
    "argmin": _extreme(-1),
    "cumsum": _cumulative,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "eigh": _eigh,
    "while": _while,
    "cond": _cond,
    "platform_index": _platform_index,
    "scan": _scan,
}
