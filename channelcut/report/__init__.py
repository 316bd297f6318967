"""What a run found, for people: `print_report` in the terminal, `render_html` as one self-contained page."""

from __future__ import annotations

from channelcut.report.html import render_html
from channelcut.report.terminal import print_report

__all__ = ["print_report", "render_html"]
