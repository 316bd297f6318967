"""One self-contained page: no script, no network, figures as inline SVG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from channelcut.report import deployment, evidence, overview
from channelcut.report.accuracy import accuracy
from channelcut.report.facts import measurement_of
from channelcut.report.markup import Html, Section, escaped, join, tag
from channelcut.report.precisions import precisions
from channelcut.report.reader import read
from channelcut.report.trials import trials


def render_html(report: Mapping[str, Any]) -> str:
    """The report (the content of report.json) as one HTML page; parts that are missing or null are left out.

    The page refers to nothing outside itself, follows the reader's light or dark setting, and prints. Medians and
    percentiles are recomputed from the samples. Raises `UserError` where the report is damaged or of another format.
    """
    content = read(report)
    measurement = measurement_of(content)
    found = [
        overview.notes(content),
        accuracy(content),
        evidence.latency(measurement),
        trials(content),
        precisions(content),
        deployment.profile(content),
        overview.layers(content),
        evidence.proof(content),
        deployment.parity(content),
        evidence.recovery(content),
        evidence.files(content),
        overview.groups(content),
        overview.graph(content),
        overview.pins(content),
        evidence.environment(content),
        evidence.seconds(content),
    ]
    sections = [section for section in found if section is not None]
    title = content.text("model") or "Model without a name"
    body = [overview.tiles(content, measurement), *(section.drawn() for section in sections)]
    return page(title, overview.header(content, measurement), body, _navigation(sections))


def page(title: str, header: Html, body: Iterable[str | None], navigation: str = "") -> str:
    """One page that refers to nothing outside itself; `body` are its parts, None is nothing."""
    template = Template((resources.files("channelcut.report") / "template.html").read_text(encoding="utf-8"))
    return template.substitute(title=escaped(title), header=header, navigation=navigation, body=join(body, "\n"))


def _navigation(sections: Sequence[Section]) -> Html:
    """Links to the sections that are there."""
    links = (tag("a", section.title, href=f"#{section.anchor}") for section in sections)
    return tag("nav", *links, aria_label="Sections")
