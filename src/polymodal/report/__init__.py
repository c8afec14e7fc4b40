"""The page of a run: one self-contained HTML file with scores, scenes, exchanged channels and curves."""

from polymodal.report.page import is_report, write_report

__all__ = ["is_report", "write_report"]
