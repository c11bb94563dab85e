"""The process that holds a model's program and answers calls of it; nothing else is in here.

It never sees a test, an expected value or a verdict: only the arguments of one call at a time. All
that a program can do to this file's code, it does to its own answers.
"""

from __future__ import annotations

import os
import stat
import sys

import limits
import wire

# `typing` would be most of the time of a start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LITERALS = {"__builtins__": {}, "nan": float("nan"), "inf": float("inf")}
MOST_TEXT = 2_000


class Callback:
    """A function of the judge's, to call back while it waits."""

    def __init__(self, candidate: Candidate, handle: int) -> None:
        self._candidate, self._handle = candidate, handle

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Ask the judge."""
        return self._candidate.ask("call", self._handle, list(args), kwargs)


class Candidate:
    """Serves one judge over one line."""

    def __init__(self, line: wire.Line) -> None:
        self._line = line
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._module = type(sys)("solution")

    def serve(self) -> None:
        """Answer until the judge hangs up."""
        while True:
            self._answer(self._receive())

    def ask(self, operation: str, *arguments: Any) -> Any:
        """A request of our own; the judge's requests are answered while we wait."""
        self._send([operation, *(self._pack(item) for item in arguments)])
        while True:
            message = self._receive()
            if message[0] == "ok":
                return self._unpack(message[1])
            if message[0] == "error":
                raise wire.builtin_error(message[1], message[2])
            self._answer(message)

    def _answer(self, message: list[Any]) -> None:
        operation, *arguments = message
        try:
            values = [self._unpack(item) for item in arguments]
            result = OPERATIONS[operation](self, *values)
            changed = []
            if operation == "call" and result is None:
                # What is returned counts; only a function that returns nothing works in place.
                kinds = list | dict | set | bytearray
                changed = [
                    self._pack(item) if isinstance(item, kinds) else None for item in values[1]
                ]
            reply = ["ok", self._pack(result), changed]
        except wire.Closed:
            raise
        except BaseException as error:
            reply = self._failure(error)
        self._send(reply)

    def _failure(self, error: BaseException) -> list[Any]:
        own = [kind for kind in type(error).__mro__ if kind.__module__ != "builtins"]
        try:
            message = str(error)[:MOST_TEXT]
        except BaseException:
            message = ""
        return ["error", wire.ancestry(error), message, [self._number(kind) for kind in own]]

    def _number(self, value: Any) -> int:
        key = id(value)
        if key not in self._numbers:
            self._numbers[key] = len(self._objects)
            self._objects.append(value)
        return self._numbers[key]

    def _export(self, value: Any) -> list[Any]:
        if isinstance(value, Callback):
            return ["k", value._handle]
        kind = "class" if isinstance(value, type) else "callable" if callable(value) else "object"
        if type(value).__name__ == "coroutine":
            kind = "coroutine"
        return ["o", self._number(value), kind]

    def _resolve(self, data: list[Any]) -> Any:
        return Callback(self, data[1]) if data[0] == "k" else self._objects[data[1]]

    def _pack(self, value: Any) -> Any:
        return wire.pack(value, self._export)

    def _unpack(self, data: Any) -> Any:
        return wire.unpack(data, self._resolve)

    def _receive(self) -> list[Any]:
        # The judge writes literals and is trusted by us, not we by it.
        message: list[Any] = eval(self._line.receive(), dict(LITERALS))
        return message

    def _send(self, message: list[Any]) -> None:
        self._line.send(wire.dump(message))

    def load(self, source: str) -> None:
        """Run the program as the module `solution`."""
        sys.modules["solution"] = self._module
        sys.argv = ["solution.py"]
        exec(compile(source, "solution.py", "exec"), self._module.__dict__)

    def get(self, name: str) -> Any:
        """A global of the program."""
        return self._module.__dict__[name]


def _delete_item(_: Candidate, target: Any, key: Any) -> None:
    del target[key]


def _await(_: Candidate, target: Any) -> Any:
    import asyncio

    return asyncio.run(target)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "load": Candidate.load,
    "get": Candidate.get,
    "call": lambda _, target, args, kwargs: target(*args, **kwargs),
    "attribute": lambda _, target, name: getattr(target, name),
    "set_attribute": lambda _, target, name, value: setattr(target, name, value),
    "item": lambda _, target, key: target[key],
    "set_item": lambda _, target, key, value: target.__setitem__(key, value),
    "delete_item": _delete_item,
    "length": lambda _, target: len(target),
    # A handle crosses, so that an endless iterator costs only what is taken from it.
    "iterate": lambda _, target: iter(target),
    "next": lambda _, target: next(target),
    "text": lambda _, target: str(target),
    "repr": lambda _, target: repr(target),
    "is_instance": lambda _, target, kind: isinstance(target, kind),
    "await": _await,
    "enter": lambda _, target: target.__enter__(),
    "exit": lambda _, target: target.__exit__(None, None, None),
}


def main(arguments: list[str]) -> None:
    """Keep the line for ourselves, lower the limits, serve.

    Args:
        arguments: those of `limits.confine`, in order.
    """
    channel = os.dup(0)
    # One socket here, a pair of pipes where a remote machine carries the line.
    output = channel if stat.S_ISSOCK(os.fstat(0).st_mode) else os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    limits.confine(*map(int, arguments))
    try:
        Candidate(wire.Line(channel, output)).serve()
    except wire.Closed:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
