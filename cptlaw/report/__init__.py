"""One self-contained HTML page a study: the answer first, then the figures and what they rest on."""

from cptlaw.report.page import write

__all__ = ["write"]
