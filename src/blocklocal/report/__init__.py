"""What was measured, for people to look at: HTML pages, plots, tables."""

from blocklocal.report.html import write_comparison, write_report
from blocklocal.report.plots import plot_comparison
from blocklocal.report.table import aggregate, comparison_table, markdown_table

__all__ = ["aggregate", "comparison_table", "markdown_table", "plot_comparison", "write_comparison", "write_report"]
