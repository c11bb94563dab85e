"""One self-contained HTML page per run, built from the run folder alone.

Needs the standard library only, so that a report can be made on a laptop without torch.
"""

from unmask.report.page import write_report

__all__ = ["write_report"]
