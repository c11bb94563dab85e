"""Where programs that a model wrote are run: never in our process.

    program = Program("def f(x): return x + 1", ("assert f(1) == 2",), names={"f": "f"})
    with Sandbox(SandboxSettings(time_limit=3)) as sandbox:
        [verdict] = sandbox.run([program])

`Sandbox.run` tests programs and cannot be fooled by them; `Sandbox.score` calls a library's scorer
that is not safe on model text. See docs/sandbox.md for what is defended against, and how.
"""

from unmask.tasks.sandbox.pool import Outcome, Program, Sandbox, Verdict, shared_sandbox
from unmask.tasks.sandbox.settings import SandboxError, SandboxSettings

__all__ = [
    "Outcome",
    "Program",
    "Sandbox",
    "SandboxError",
    "SandboxSettings",
    "Verdict",
    "shared_sandbox",
]
