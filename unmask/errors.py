"""Why a run ends early, other than by a user's mistake (a ValueError); how a reason is told."""


class Preempted(Exception):
    """The run was asked to stop by a signal, and has saved itself."""


class Diverged(RuntimeError):
    """Too many updates in a row had a non-finite loss or gradient."""


def in_one_line(error: object) -> str:
    """What another library's error says, as part of a message of one line."""
    return " ".join(str(error).split())[:200].rstrip(".")
