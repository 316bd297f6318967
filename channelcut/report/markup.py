"""Markup that cannot forget to escape: a child that is not `Html` is text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Control characters drive terminals, direction marks reorder what is read, lone surrogates cannot be written as UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_VOID = frozenset({"br", "meta"})


class Html(str):
    """Markup; whatever is not of this type is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A part of the page that the navigation can point to; `anchor` is a plain word."""

    anchor: str
    title: str
    content: Html

    def drawn(self) -> Html:
        """The section as markup, named by its heading."""
        heading = f"{self.anchor}-title"
        return tag("section", tag("h2", self.title, id=heading), self.content, id=self.anchor, aria_labelledby=heading)


def printable(text: str) -> str:
    r"""The text with line ends and tabs as spaces and other invisible characters spelt out, as `\x1b`."""
    return _UNPRINTABLE.sub(_spelt, text)


def escaped(text: str) -> Html:
    """The text as markup."""
    return text if isinstance(text, Html) else Html(html.escape(printable(text)))


def join(children: Iterable[str | None], between: str = "") -> Html:
    """The children one after the other, with escaped text; None is nothing."""
    return Html(escaped(between).join(escaped(child) for child in children if child is not None))


def tag(name: str, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """An element. `class_` is the attribute class, `stroke_width` is stroke-width; None and False are left out."""
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(children)}</{name}>")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str, numeric: Iterable[int] = ()) -> Html:
    """A table in a box that scrolls; the first cell of a row is its header, `numeric` columns are set to the right."""
    right = set(numeric)

    def cell(kind: str, column: int, content: str, scope: str | None) -> Html:
        return tag(kind, content, class_="number" if column in right else None, scope=scope)

    head = tag("tr", *(cell("th", i, text, "col") for i, text in enumerate(headers)))
    body = (
        tag("tr", *(cell("td" if i else "th", i, text, None if i else "row") for i, text in enumerate(row)))
        for row in rows
    )
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def facts_list(pairs: Iterable[tuple[str, str]]) -> Html:
    """A list of names and values; pairs without a value are left out."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if value))


def fold(summary: str, *children: str | None, opened: bool, class_: str | None = None) -> Html:
    """A part that can be folded away; on paper it is open, or absent with the class `aside`."""
    return tag("details", tag("summary", summary), *children, open=opened, class_=class_)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(printable(text))}"'


def _spelt(match: re.Match[str]) -> str:
    character = match.group()
    return " " if character in "\n\r\t" else character.encode("unicode_escape").decode("ascii")
