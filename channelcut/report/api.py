"""`docs/api.md`, written from the docstrings of the public names: `python -m channelcut.report.api > docs/api.md`."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import channelcut

DOCUMENTED = (
    "analyze", "plan", "apply", "prove", "prune", "compensate", "recover", "sparsify", "prune_in_rounds", "save",
    "load", "export", "Plan", "Proof", "PruneResult", "RecoverOptions",
)  # fmt: skip
_SECTION = re.compile(r"^(Args|Returns|Raises|Example):\n", re.M)
_ENTRY = re.compile(r"^    (\w+): ", re.M)


def page() -> str:
    """The page: a signature, the docstring and an example for each name."""
    parts = [
        "# API",
        "Written from the docstrings by `python -m channelcut.report.api > docs/api.md`; a test runs every example.",
        *(_entry(name) for name in DOCUMENTED),
    ]
    return "\n\n".join(parts) + "\n"


def _entry(name: str) -> str:
    found: Any = getattr(channelcut, name)
    pieces = _SECTION.split(inspect.getdoc(found) or "")
    intro, sections = pieces[0].strip(), dict(zip(pieces[1::2], pieces[2::2], strict=True))
    text = [f"## `{name}`", intro, f"```\n{_signature(name, found)}\n```"]
    for title, body in sections.items():
        if title == "Example":
            text.append(f"```pycon\n{inspect.cleandoc(body)}\n```")
        else:
            text += [f"**{'Fields' if inspect.isclass(found) and title == 'Args' else title}**", _listed(body)]
    return "\n\n".join(text)


def _signature(name: str, found: Any) -> str:
    parameters = inspect.signature(found).parameters.values()
    lines, starred = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            lines.append("    *,")
            starred = True
        default = "" if parameter.default is parameter.empty else f"={_shown(parameter.default)}"
        lines.append(f"    {parameter.name}{default},")
    return "\n".join([f"channelcut.{name}(", *lines, ")"])


def _shown(default: Any) -> str:
    return "..." if repr(default).startswith("<") else repr(default)


def _listed(body: str) -> str:
    """Entries `name: text` as a list; text without names as it is."""
    lines: list[str] = []
    for line in body.strip("\n").split("\n"):
        if _ENTRY.match(line):
            lines.append(_ENTRY.sub(r"- `\1`: ", line))
        else:
            lines.append(f"  {line.strip()}" if lines and lines[0].startswith("- ") else line.strip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page())
