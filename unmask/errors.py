"""Why a run ends early, other than by the user's mistake (a ValueError)."""


class Preempted(Exception):
    """The run was asked to stop by a signal, and has saved itself."""


class Diverged(RuntimeError):
    """Too many updates in a row had a non-finite loss or gradient."""
