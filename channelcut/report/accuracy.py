"""The accuracy of the networks and of every file, for the page and the terminal."""

from __future__ import annotations

from channelcut.report.markup import Section, table, tag
from channelcut.report.overview import section
from channelcut.report.reader import Part

_WORDS = {"map": "mAP50-95", "map50": "mAP50", "top1": "top-1", "top5": "top-5"}
_LEFT_OUT = ("precision", "recall")  # at one threshold, of little use beside the averages


def accuracy_words(report: Part) -> str:
    """What the accuracy was measured on and with; empty where it was not."""
    found = report.part("accuracy")
    if not found.parts("rows"):
        return ""
    if by := found.text("by"):
        return by
    pairs = [(name, found.text(name)) for name in ("head", "suppression", "library")]
    said = [f"{name} {text}" if name == "suppression" else text for name, text in pairs if text]
    size = "x".join(f"{number:.0f}" for number in found.numbers("imgsz") if number is not None)
    return "; ".join([f"split {found.text('split')} of {found.text('data')} at {size}", *said])


def accuracy_rows(report: Part) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and text rows; what could not be evaluated has its reason in place of the first number."""
    rows = report.part("accuracy").parts("rows")
    own = bool(report.part("accuracy").text("by"))  # names that a user's file has given
    keys = list(dict.fromkeys(key for row in rows for key in row.part("metrics").data))
    if not own:
        keys = [key for key in keys if not key.endswith(_LEFT_OUT)]
        keys.sort(key=lambda key: key not in _WORDS)
    found = []
    for row in rows:
        cells = [_number(row.part("metrics").number(key)) for key in keys]
        found.append((row.text("network"), row.text("what"), *([row.text("reason")] if row.text("reason") else cells)))
    return ("Network", "Form", *(key if own else metric_words(key) for key in keys)), [
        (*row, *[""] * (2 + len(keys) - len(row))) for row in found
    ]


def accuracy(report: Part) -> Section | None:
    """The table of the page."""
    heads, rows = accuracy_rows(report)
    if not rows:
        return None
    listed = table(heads, rows, "Accuracy of the networks and of every file", range(2, len(heads)))
    by = "By" if report.part("accuracy").text("by") else "By the library's own validator:"
    return section("accuracy", "Accuracy", tag("p", f"{by} {accuracy_words(report)}."), listed)


def metric_words(key: str) -> str:
    """A metric as readers call it: `map` is mAP50-95."""
    kind, _, rest = key.partition("_")
    return f"{_WORDS.get(rest, rest)} ({kind})" if rest else _WORDS.get(key, key)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
