"""`explain`: which group the channels of a parameter belong to, and why they may or may not go."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from channelcut.core.errors import UserError


def explain(report: Mapping[str, Any], parameter: str) -> dict[str, Any]:
    """What `report.json` says about one parameter, buffer or module.

    Raises:
        UserError: the model has no such name; the nearest ones are named.
    """
    inside = parameter + "."
    rows = [s for s in report["slots"] if s["tensor"] == parameter or s["tensor"].startswith(inside)]
    if not rows:
        names = sorted(
            {s["tensor"] for s in report["slots"]} | {s["tensor"].rpartition(".")[0] for s in report["slots"]}
        )
        near = difflib.get_close_matches(parameter, names, 3, 0.5)
        example = names[-1] if names else "head.weight"
        hint = f"Did you mean {', '.join(near)}?" if near else f"Expected a name such as {example}."
        raise UserError(f"No parameter or module with channels is called {parameter!r}. {hint}")
    axes = []
    for row in rows:
        groups = [{**report["groups"][int(g)], "index": int(g), "positions": n} for g, n in row["groups"].items()]
        pins = [report["pins"][i] for i in row["pins"]]
        found = [report["findings"][i] for i in row["findings"]]
        partners = sorted(
            {s["tensor"] for s in report["slots"] if set(s["groups"]) & set(row["groups"])} - {row["tensor"]}
        )
        axes.append({**row, "groups": groups, "pins": pins, "findings": found, "partners": partners})
    return {"parameter": parameter, "axes": axes}


def sentences(found: Mapping[str, Any]) -> list[str]:
    """The explanation in words, one line a fact."""
    roles = {
        "out": "output channels", "in": "input channels", "depthwise": "channels", "group": "channels, in whole groups",
        "norm": "channels", "bias": "output channels", "param": "channels",
    }  # fmt: skip
    lines = []
    for axis in found["axes"]:
        lines.append(f"{axis['tensor']}, axis {axis['axis']}: {axis['extent']} {roles[axis['role']]}")
        for group in axis["groups"]:
            went = group["width"] - group["kept"]
            lanes = f" in each of {group['lanes']} lanes" if group["lanes"] > 1 else ""
            lines.append(
                f"  {axis_share(group)} may go: group {group['index']} ({group['name']}), {group['width']} "
                f"channels{lanes}, of which "
                f"{group['kept']} were kept and {went} removed"
            )
        lines += [
            f"  {axis['fixed']} must stay: {pin['reason']}, at {_place(pin)}; {pin['remedy']}" for pin in axis["pins"]
        ]
        for finding in axis["findings"]:
            effect = {"bind": "live and die together", "tie": "keep equal shares", "pin": "stay"}[finding["effect"]]
            lines.append(
                f"  the {finding['check']} found that {finding['channels']} channels {effect}: {finding['reason']}, at "
                f"{_place(finding)}"
            )
        if axis["fixed"] and not axis["pins"]:
            lines.append(
                f"  {axis['fixed']} must stay: they are no channels of a layer (the network's input, or a fixed tensor)"
            )
        if axis["partners"]:
            shown = ", ".join(axis["partners"][:6])
            more = f" and {len(axis['partners']) - 6} others" if len(axis["partners"]) > 6 else ""
            lines.append(f"  removed together with channels of {shown}{more}")
    return lines


def _place(found: Mapping[str, Any]) -> str:
    """Read as `aten.view in model.10.attn (block.py:1331)`."""
    source = f" ({found['source']})" if found["source"] else ""
    return f"{found['op']} in {found['module'] or 'the model'}{source}"


def axis_share(group: Mapping[str, Any]) -> str:
    """How many positions of the axis belong to a group."""
    return f"{group['positions']} of them"
