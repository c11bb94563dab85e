"""Runs a program's tests against a candidate in another process, over plain data.

The tests, their expected values and the verdict exist in this process only. The candidate sees the
arguments of one call at a time and can do nothing but answer: its answers arrive as plain data and
are compared here, by this interpreter's own types. So there is nothing in the candidate's process
worth reading, patching or printing.

What is no plain data (an object of the candidate's own class) stays there and is held by a handle.
Reading its attributes and calling its methods is answered by the candidate, as tests of classes
need. Comparing it, adding to it or taking its truth is not: an object that says "equal" to
everything, or that learns the expected value from being subtracted from, proves nothing.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import wire

# An answer that is no plain data may not pass for one.
PLAIN_METHODS = frozenset(
    name
    for kind in (str, bytes, list, dict, set, tuple, int, float, complex)
    for name in dir(kind)
    if not name.startswith("_")
)
MOST_REASON = 300


class Remote:
    """Something that lives in the candidate's process.

    `_kind` is what the candidate says it is, or "type" for a class that the tests name;
    `_returned` marks an answer, as opposed to an object that the tests made.
    """

    __slots__ = ("_channel", "_handle", "_kind", "_returned")
    _channel: Channel
    _handle: int
    _kind: str
    _returned: bool

    def __init__(self, channel: Channel, handle: int, kind: str, returned: bool) -> None:
        for name, value in zip(self.__slots__, (channel, handle, kind, returned), strict=True):
            object.__setattr__(self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it over there."""
        return self._channel.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        if self._returned and name in PLAIN_METHODS:
            raise AttributeError(f"{name} of an answer that is no plain data")
        return self._channel.ask("attribute", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._channel.ask("set_attribute", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._channel.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._channel.ask("set_item", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._channel.ask("delete_item", self, key)

    def __len__(self) -> int:
        return int(self._channel.ask("length", self))

    def __iter__(self) -> Iterator[Any]:
        return self._channel.iterate(self)

    def __next__(self) -> Any:
        return self._channel.ask("next", self)

    def __str__(self) -> str:
        return str.__str__(self._channel.ask("text", self))

    def __repr__(self) -> str:
        return str.__str__(self._channel.ask("repr", self))

    def __enter__(self) -> Any:
        return self._channel.ask("enter", self)

    def __exit__(self, *_: Any) -> None:
        self._channel.ask("exit", self)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and self._channel.ask("is_instance", value, self) is True

    def __bool__(self) -> bool:
        raise TypeError("the truth of an object of the program is not known outside of it")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other._handle == self._handle

    def __hash__(self) -> int:
        return hash(self._handle)


class Channel:
    """The judge's side of the line to the candidate.

    Attributes:
        closed: the candidate has gone, or broke the language; every later test fails.
    """

    def __init__(self, line: wire.Line) -> None:
        self._line = line
        self._callbacks: list[Callable[..., Any]] = []
        self._made: set[int] = set()
        self.closed = False

    def ask(self, operation: str, *arguments: Any) -> Any:
        """The candidate's answer to one request.

        Raises:
            Exception: the nearest builtin one to what the candidate raised.
            wire.Closed: if the candidate is gone.
        """
        if self.closed:
            raise wire.Closed
        self._send([operation, *(wire.pack(item, self._export) for item in arguments)])
        while True:
            message = self._receive()
            if message[0] == "call":
                self._call_back(message)
                continue
            if message[0] == "error":
                error = wire.builtin_error(message[1], str(message[2]))
                error.candidate_classes = message[3]
                raise error
            if message[0] != "ok":
                self._break()
            if operation == "call" and message[1] is None:
                self._write_back(arguments[1], message[2])
            return self._unpack(message[1])

    def call(self, target: Remote, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a function, or make an object of a class."""
        result = self.ask("call", target, list(args), dict(kwargs))
        if isinstance(result, Remote) and target._kind == "type":
            self._made.add(result._handle)
            return Remote(self, result._handle, result._kind, returned=False)
        if isinstance(result, Remote) and result._kind == "coroutine":

            async def waiting() -> Any:
                return self.ask("await", result)

            return waiting()
        return result

    def iterate(self, target: Remote) -> Iterator[Any]:
        """One item at a time."""
        iterator = self.ask("iterate", target)
        if not isinstance(iterator, Remote):
            raise TypeError("not iterable")
        while True:
            try:
                yield self.ask("next", iterator)
            except StopIteration:
                return

    def _call_back(self, message: list[Any]) -> None:
        try:
            handle, args, kwargs = message[1:]
            function = self._callbacks[handle]
            result = function(*self._unpack(args), **self._unpack(kwargs))
            reply = ["ok", wire.pack(result, self._export)]
        except Exception as error:
            reply = ["error", wire.ancestry(error), str(error)[:MOST_REASON]]
        self._send(reply)

    def _write_back(self, arguments: Sequence[Any], changed: Any) -> None:
        for argument, new in zip(arguments, changed, strict=False):
            value: Any = None if new is None else self._unpack(new)
            if type(argument) is not type(value):
                continue
            if isinstance(argument, list | bytearray):
                argument[:] = value
            elif isinstance(argument, dict | set):
                argument.clear()
                argument.update(value)

    def _export(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return ["o", value._handle]
        if callable(value):
            self._callbacks.append(value)
            return ["k", len(self._callbacks) - 1]
        raise TypeError(f"a {type(value).__name__} cannot be handed to the program")

    def _unpack(self, data: Any) -> Any:
        try:
            return wire.unpack(data, self._resolve)
        except RecursionError:
            raise
        except (ValueError, TypeError, LookupError, OverflowError, ArithmeticError):
            self._break()

    def _resolve(self, data: list[Any]) -> Any:
        if data[0] == "k" and type(data[1]) is int and 0 <= data[1] < len(self._callbacks):
            return self._callbacks[data[1]]
        if data[0] != "o" or type(data[1]) is not int:
            raise ValueError("no handle")
        return Remote(self, data[1], str(data[2]), returned=data[1] not in self._made)

    def _send(self, message: list[Any]) -> None:
        try:
            self._line.send(ascii(message))
        except wire.Closed:
            self.closed = True
            raise

    def _receive(self) -> list[Any]:
        try:
            message = json.loads(self._line.receive())
            if isinstance(message, list) and len(message) >= 2:
                return message
        except (ValueError, RecursionError):
            pass
        except wire.Closed:
            self.closed = True
            raise
        self._break()

    def _break(self) -> NoReturn:
        self.closed = True
        raise wire.Closed


def run_tests(job: Mapping[str, Any], descriptor: int) -> dict[str, Any]:
    """Passed and all tests of a program.

    Args:
        job: `code` of the program; `setup` run before the tests; `tests`, each a piece of Python;
            `names`, which names of the tests are the program's, as {name in tests: its name}.
        descriptor: of the line to the candidate.

    Returns:
        `passed`, one boolean a test, and `reason`, of the first failure.
    """
    sys.setrecursionlimit(5_000)
    channel = Channel(wire.Line(descriptor))
    try:
        channel.ask("load", job["code"])
    except (Exception, wire.Closed) as error:
        return {"passed": [False] * max(1, len(job["tests"])), "reason": _reason(error)}
    space = _space(channel, job["names"])
    passed: list[bool] = []
    reason = ""
    try:
        exec(compile(job["setup"], "setup.py", "exec"), space)
    except BaseException as error:
        return {"passed": [False] * max(1, len(job["tests"])), "reason": "setup: " + _reason(error)}
    _bind(channel, job["names"], space)
    for source in job["tests"]:
        for test in _units(source, space):
            try:
                test()
            except BaseException as error:
                reason = reason or _reason(error)
                passed.append(False)
            else:
                passed.append(not channel.closed)
    return {"passed": passed or [False], "reason": reason}


def _units(source: str, space: dict[str, Any]) -> list[Callable[[], Any]]:
    """The tests in a piece of Python: its test functions and cases, or the piece itself."""
    try:
        code = compile(source, "test.py", "exec")
    except (SyntaxError, ValueError) as error:
        return [_raiser(error)]
    if "test" not in " ".join(code.co_names).lower() or "def " not in source:
        return [lambda: exec(code, dict(space))]
    # Its own copy, so that one test's names are not the next one's.
    own = dict(space)
    try:
        exec(code, own)
    except BaseException as error:
        return [_raiser(error)]
    import frameworks

    return frameworks.tests_of({k: v for k, v in own.items() if k not in space}) or [lambda: None]


def _raiser(error: BaseException) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


def _space(channel: Channel, names: Mapping[str, str]) -> dict[str, Any]:
    """Globals of the tests, with `solution` importable."""
    solution = types.ModuleType("solution")
    solution.__getattr__ = lambda name: _get(channel, name)  # type: ignore[method-assign]
    sys.modules["solution"] = solution
    space = {"__name__": "tests"}
    _bind(channel, names, space)
    return space


def _bind(channel: Channel, names: Mapping[str, str], space: dict[str, Any]) -> None:
    for name, own in names.items():
        try:
            space[name] = _get(channel, own)
        except AttributeError:
            space.pop(name, None)


def _get(channel: Channel, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        value = channel.ask("get", name)
    except Exception:
        raise AttributeError(f"the program defines no {name}") from None
    if isinstance(value, Remote):
        # Only what the tests call by a class's name makes objects; the program cannot declare that
        # a function whose answers are compared is a class.
        is_type = value._kind == "class" and name[:1].isupper()
        return Remote(channel, value._handle, "type" if is_type else value._kind, returned=False)
    return value


def _reason(error: BaseException) -> str:
    if isinstance(error, wire.Closed):
        return "the program ended or was stopped"
    try:
        text = " ".join(str(error).split())
    except BaseException:
        text = ""
    return f"{type(error).__name__}: {text}"[:MOST_REASON]
