"""The ops that have rules, as the page docs/ops.md: `python -m channelcut.ops.table > docs/ops.md`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from channelcut.ops.registry import Rule, rules

_PACKAGE = "channelcut.ops."
_LIBRARIES = ("aten", "channelcut", "getitem", "torchvision")
_HEAD = """\
# Ops with rules

Written by `python -m channelcut.ops.table > docs/ops.md`; a test compares it with the table. An op that is not here
pins the channels that go into it; [rules.md](rules.md) says how to give it a rule. A write in place is known as the op
that it writes (`aten.relu_` as `aten.relu`), and so are torch's copies of views (`aten.permute_copy`).
"""


def page(table: Mapping[str, Rule] | None = None) -> str:
    """The page: a section for each family, a row for each rule.

    Rules from outside the package are left out, and so are others' ops that `pointwise` or `elementwise` gave a rule.
    """
    families: dict[str, dict[Rule, list[str]]] = {}
    for op, rule in (rules() if table is None else table).items():
        if rule.__module__.startswith(_PACKAGE) and op.partition(".")[0] in _LIBRARIES:
            families.setdefault(rule.__module__, {}).setdefault(rule, []).append(op)
    count = sum(len(ops) for found in families.values() for ops in found.values())
    parts = [_HEAD, f"{count} ops in {len(families)} families.\n"]
    for module in sorted(families):
        parts.append(f"## {_first(sys.modules[module].__doc__)}\n\n`{module.replace('.', '/')}.py`\n")
        rows = [
            f"| {', '.join(f'`{op}`' for op in ops)} | {_first(r.__doc__)} |" for r, ops in families[module].items()
        ]
        parts.append("\n".join(["| ops | what the rule says |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _first(text: str | None) -> str:
    """The first paragraph of a docstring in one line, fit for a table's cell."""
    return " ".join((text or "").strip().split("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
