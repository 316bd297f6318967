"""`explain`: which group the channels of a parameter belong to, and why they may or may not go."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from channelcut.core.errors import UserError

_EFFECTS = {
    "bind": "live and die together",
    "tie": "keep equal shares",
    "pin": "stay",
    "counts": "keep in each lane what the forward's own splits give it",
}


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
    return {"parameter": parameter, "axes": axes, "layers": _layers(axes)}


def _layers(axes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The output channels of every layer with weights: how many there are, are kept, must stay, and why."""
    found = {}
    for axis in axes:
        if axis["role"] in ("out", "depthwise", "group") and not axis["tensor"].endswith("bias"):
            layer = axis["tensor"].rpartition(".")[0] or axis["tensor"]
            kept = sum(g["positions"] * g["kept"] // g["width"] for g in axis["groups"])
            found[layer] = {
                "layer": layer,
                "channels": axis["extent"],
                "kept": axis["fixed"] + kept,
                "fixed": axis["fixed"],
                "groups": [g["index"] for g in axis["groups"]],
                "reasons": sorted({pin["reason"] for pin in axis["pins"]}),
            }
    return list(found.values())


def sentences(found: Mapping[str, Any]) -> list[str]:
    """The explanation in words: one line a fact, or of a module with several layers one line a layer."""
    roles = {
        "out": "output channels", "in": "input channels", "depthwise": "channels", "group": "channels, in whole groups",
        "norm": "channels", "bias": "output channels", "param": "channels",
    }  # fmt: skip
    if len(found["layers"]) > 1:
        return [*map(_layer_line, found["layers"]), "Name one of these layers for what holds its channels, and where."]
    lines = []
    for axis in found["axes"]:
        lines.append(f"{axis['tensor']}, axis {axis['axis']}: {axis['extent']} {roles[axis['role']]}")
        for group in axis["groups"]:
            went = group["width"] - group["kept"]
            lanes = f" in each of {group['lanes']} lanes" if group["lanes"] > 1 else ""
            if group.get("counts"):
                lanes = f" in {group['lanes']} lanes, which keep what the forward's own splits give them"
            lines.append(
                f"  {axis_share(group)} may go: group {group['index']} ({group['name']}), {group['width']} "
                f"channels{lanes}, of which "
                f"{group['kept']} were kept and {went} removed"
            )
        lines += [
            f"  {axis['fixed']} must stay: {pin['reason']}, at {_place(pin)}; {pin['remedy']}" for pin in axis["pins"]
        ]
        for finding in axis["findings"]:
            effect = _EFFECTS[finding["effect"]]
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


def _layer_line(layer: Mapping[str, Any]) -> str:
    """Read as `model.2.cv1.conv: 16 of 32 output channels kept, group 3`."""
    groups = f", {'group' if len(layer['groups']) == 1 else 'groups'} {', '.join(map(str, layer['groups']))}"
    held = f", {layer['fixed']} must stay: {'; '.join(layer['reasons']) or 'no channels of a layer'}"
    return (
        f"{layer['layer']}: {layer['kept']} of {layer['channels']} output channels kept"
        f"{groups if layer['groups'] else ''}{held if layer['fixed'] else ''}"
    )


def _place(found: Mapping[str, Any]) -> str:
    """Read as `aten.view in model.10.attn (block.py:1331)`."""
    source = f" ({found['source']})" if found["source"] else ""
    return f"{found['op']} in {found['module'] or 'the model'}{source}"


def axis_share(group: Mapping[str, Any]) -> str:
    """How many positions of the axis belong to a group."""
    return f"{group['positions']} of them"
