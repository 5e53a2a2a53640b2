"""Every figure, and the self-contained HTML page of a study: the answer first, then what it rests on."""

from cptlaw.report.figures.one_fit import write as write_figures
from cptlaw.report.page import write

__all__ = ["write", "write_figures"]
