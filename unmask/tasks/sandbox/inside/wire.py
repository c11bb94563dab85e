"""The language between a judge and a candidate: one message a line, plain data by value.

`None`, booleans, integers, floats and strings stand for themselves; everything else is a list whose
first item is a tag. What is no plain data crosses as a handle: a number that its owner can look up
and nobody else can. The two sides speak the same shapes with different rights, see `Peer.answer`.

Only modules that start at no cost are imported: every program waits for this file.
"""

from __future__ import annotations

from _json import encode_basestring_ascii
from posix import read, write

# `typing` would be most of the time of a start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_LINE = 8 << 20
SMALL = 1 << 63
# Functions that cross by name; `eval` and its like stay where they are.
FUNCTIONS = frozenset(
    ("abs", "all", "any", "bin", "chr", "divmod", "hash", "hex", "isinstance", "len", "max", "min",
     "next", "oct", "ord", "pow", "print", "repr", "round", "sorted", "sum")
)  # fmt: skip
SEQUENCES: dict[str, Any] = {"l": list, "t": tuple, "s": set, "f": frozenset}
# Standard library values that compare by value: type -> how to make an equal one.
BY_ARGUMENTS: dict[tuple[str, str], Callable[[Any], list[Any]]] = {
    ("fractions", "Fraction"): lambda x: [x.numerator, x.denominator],
    ("decimal", "Decimal"): lambda x: [str(x)],
    ("datetime", "date"): lambda x: [x.year, x.month, x.day],
    ("datetime", "timedelta"): lambda x: [x.days, x.seconds, x.microseconds],
    ("datetime", "time"): lambda x: [x.hour, x.minute, x.second, x.microsecond],
    ("datetime", "datetime"): lambda x: [
        x.year, x.month, x.day, x.hour, x.minute, x.second, x.microsecond,
    ],
    ("collections", "deque"): lambda x: [list(x), x.maxlen],
    ("collections", "Counter"): lambda x: [dict(x)],
    ("collections", "OrderedDict"): lambda x: [list(x.items())],
}  # fmt: skip


class Closed(BaseException):
    """The other side is gone, or says what is no message; no test may catch and survive this."""


class Line:
    """One message a line over a socket or two pipes, of at most 8 MiB."""

    def __init__(self, source: int, sink: int | None = None) -> None:
        self._source = source
        self._sink = source if sink is None else sink
        self._rest = b""

    def send(self, text: str) -> None:
        """Write a message."""
        data = text.encode("ascii") + b"\n"
        try:
            while data:
                data = data[write(self._sink, data) :]
        except OSError:
            raise Closed from None

    def receive(self) -> str:
        """Read a message."""
        parts = [self._rest]
        size = len(self._rest)
        while b"\n" not in parts[-1]:
            if size > MAX_LINE:
                raise Closed
            try:
                parts.append(read(self._source, 1 << 16))
            except OSError:
                raise Closed from None
            if not parts[-1]:
                raise Closed
            size += len(parts[-1])
        line, self._rest = b"".join(parts).split(b"\n", 1)
        try:
            return line.decode("ascii")
        except UnicodeDecodeError:
            raise Closed from None


def dump(value: Any) -> str:
    """JSON of packed data, without importing json."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, float):
        text = float.__repr__(value)
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)
    if isinstance(value, int):
        return int.__repr__(value)
    return "[" + ",".join(map(dump, value)) + "]"


def pack(value: Any, export: Callable[[Any], list[Any]]) -> Any:
    """Plain data as JSON can carry it; anything else becomes what `export` says.

    Subclasses go as the plain type they hold: an equal value, and no behaviour of its own.
    """
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is str:
        return value
    if isinstance(value, int):
        value = int.__int__(value)
        return value if -SMALL < value < SMALL else ["i", hex(value)]
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray):
        return ["b" if isinstance(value, bytes) else "B", bytes(value).hex()]
    arguments = BY_ARGUMENTS.get((kind.__module__, kind.__name__))
    if arguments is not None:
        module, name = kind.__module__, kind.__name__
        return ["v", module, name, [pack(item, export) for item in arguments(value)]]
    for tag, plain in SEQUENCES.items():
        if isinstance(value, plain):
            return [tag, *(pack(item, export) for item in plain.__iter__(value))]
    if isinstance(value, dict):
        pairs = dict.items(value)
        return ["d", *([pack(key, export), pack(item, export)] for key, item in pairs)]
    if kind is complex:
        return ["c", value.real, value.imag]
    if kind is range:
        return ["r", value.start, value.stop, value.step]
    if kind is type(Ellipsis) or value is NotImplemented:
        return ["n", repr(value)]
    if getattr(value, "__module__", "") == "builtins" and (kind is type or kind is type(len)):
        name = value.__name__
        if kind is type or name in FUNCTIONS:
            return ["n", name]
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return _pack_numpy(value, export)
    return export(value)


def unpack(data: Any, resolve: Callable[[list[Any]], Any]) -> Any:
    """The value that was packed; `resolve` is given what `export` wrote.

    Raises:
        ValueError, TypeError, LookupError: for what `pack` never writes.
    """
    if not isinstance(data, list):
        return data
    tag, items = data[0], data[1:]
    if tag in SEQUENCES:
        return SEQUENCES[tag](unpack(item, resolve) for item in items)
    if tag == "d":
        return {unpack(key, resolve): unpack(item, resolve) for key, item in items}
    if tag == "i":
        return int(items[0], 16)
    if tag in ("b", "B"):
        return (bytes if tag == "b" else bytearray).fromhex(items[0])
    if tag == "c":
        return complex(float(items[0]), float(items[1]))
    if tag == "r":
        return range(*items)
    if tag == "n":
        return _builtin(items[0])
    if tag == "v":
        module, name, arguments = items
        if (module, name) not in BY_ARGUMENTS:
            raise ValueError(f"{module}.{name} is no plain value")
        kind = getattr(__import__(module), name)
        return kind(*(unpack(item, resolve) for item in arguments))
    if tag == "a":
        dtype, shape, values = items
        if not isinstance(dtype, str) or dtype[1:2] not in tuple("biufcU") or len(dtype) > 6:
            raise ValueError(f"{dtype!r} is no plain array")
        import numpy

        return numpy.array(unpack(values, resolve), dtype=dtype).reshape(shape)
    return resolve(data)


def _pack_numpy(value: Any, export: Callable[[Any], list[Any]]) -> Any:
    if not hasattr(value, "dtype") or value.dtype.kind not in "biufcU":
        return export(value)
    if not value.shape:
        return pack(value.tolist(), export)
    return ["a", value.dtype.str, list(value.shape), pack(value.ravel().tolist(), export)]


def _builtin(name: str) -> Any:
    import builtins

    value = getattr(builtins, str(name))
    if name in FUNCTIONS or value is Ellipsis or value is NotImplemented or type(value) is type:
        return value
    raise ValueError(f"{name} does not cross")


def builtin_error(names: list[str], message: str) -> BaseException:
    """The nearest builtin exception of a class's ancestry; never one that ends a process."""
    import builtins

    for name in names:
        kind = getattr(builtins, str(name), None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(message)
            except TypeError:  # UnicodeDecodeError and its like take more
                continue
    return RuntimeError(message)


def ancestry(error: BaseException) -> list[str]:
    """Names of an exception's classes, nearest first."""
    return [kind.__name__ for kind in type(error).__mro__]
