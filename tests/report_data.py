"""A report with every part filled, and helpers to change it and to show it."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from channelcut.report import print_report

Json = dict[str, Any]
Path = tuple[str | int, ...]


def make_report() -> Json:
    """Every part filled, every number different from every other of its kind."""
    rng = random.Random(0)
    return {
        "format": 1,
        "model": "demo:tiny",
        "input": ["1x3x64x64"],
        "weights": "tuned.pt",
        "options": {"macs": 0.5, "align": 8, "importance": "l2", "floor": 0.1},
        "cost": {"before": {"macs": 3.04e9, "params": 2572280}, "after": {"macs": 1.52e9, "params": 1525120}},
        "groups": [
            {"name": "stem.weight", "lanes": 1, "width": 64, "kept": 40},
            {"name": "body.split.weight", "lanes": 2, "width": 32, "kept": 16},
        ],
        "layers": [
            {"name": "stem", "before": [64, 3], "after": [40, 3]},
            {"name": "body.split", "before": [96, 48], "after": [56, 24]},
            {"name": "head", "before": [80, 36], "after": [80, 17]},
        ],
        "pins": [
            {
                "reason": "network output",
                "op": "aten.cat",
                "module": "head",
                "source": "head.py:31",
                "channels": 80,
                "remedy": "outputs keep their shape",
            },
            {
                "reason": "hard-coded width",
                "op": "aten.view",
                "module": "attn",
                "source": "attn.py:7",
                "channels": 96,
                "remedy": "use the shape",
            },
            {
                "reason": "hard-coded width",
                "op": "aten.split",
                "module": "attn.qkv",
                "source": "attn.py:9",
                "channels": 128,
                "remedy": "use the shape",
            },
        ],
        "graph": {
            "nodes": [
                layer("first", 0, [part(0, 60, 40)], []),
                layer("second", 1, [part(1, 30, 15), part(None, 4, 4)], ["a reason of the graph"]),
                layer("third", 2, [part(1, 28, 13)], []),
                *(
                    layer(name, 3, [part(None, 77, 77)], ["another reason"])
                    for name in ("fourth", "fifth", "sixth", "last")
                ),
            ],
            "edges": [{"from": s, "to": t} for s, t in ((0, 2), (0, 3), (1, 4), (2, 4))],
            "groups": [{"name": f"group {i}", "channels": 60 - i, "kept": 40 - i} for i in range(3)],
        },
        "proof": {
            "passed": True,
            "max_relative_error": 3e-14,
            "tolerance": 1e-9,
            "signal": 4.4,
            "checks": 144,
            "training": "step passed",
            "weights": "own",
            "seconds": 5.7,
            "failures": [],
        },
        "recalibration": {"images": 127, "layers": 41, "seconds": 2.13},
        "onnx": {
            "original": onnx_part("original.onnx", 10_234_567, 398),
            "pruned": onnx_part("pruned.onnx", 6_134_567, 397),
        },
        "engines": [
            {
                "path": "model.sm89.engine",
                "backend": "tensorrt_rtx",
                "capability": "sm89",
                "build_s": 0.63,
                "size_mib": 3.21,
                "version": "1.7",
            }
        ],
        "measurement": {
            "format": "channelcut-measurement-1",
            "baseline": {"name": "original", "samples_ms": [40 + rng.random() for _ in range(60)]},
            "candidate": {"name": "pruned", "samples_ms": [24 + rng.random() for _ in range(60)]},
            "ratio": 0.61,
            "ratio_low": 0.6,
            "ratio_high": 0.63,
            "environment": {"device": "cpu", "threads": 1},
            "warnings": ["clocks are not fixed"],
        },
        "environment": {"cpu": "a processor", "cores": 2, "libraries": {"torch": "2.13"}},
        "seconds": {"trace": 2.3, "couple": 1.1},
        "notes": ["a note of the run"],
    }


def layer(name: str, depth: int, parts: list[Json], pins: list[str]) -> Json:
    group = parts[0]["group"]
    return {
        "name": name,
        "op": f"op of {name}",
        "module": f"module of {name}",
        "source": f"{name}.py:1",
        "depth": depth,
        **({} if group is None else {"group": group}),
        "before": sum(p["before"] for p in parts),
        "after": sum(p["after"] for p in parts),
        "parts": parts,
        "pins": pins,
    }


def part(group: int | None, before: int, after: int) -> Json:
    return {"group": group, "before": before, "after": after}


def onnx_part(path: str, size: int, nodes: int) -> Json:
    return {
        "path": path,
        "opset": 20,
        "nodes_before": 520,
        "nodes_after": nodes,
        "simplifier": "onnxsim",
        "max_relative_error": 2e-6,
        "refusals": [f"{path} was refused once"],
        "size_bytes": size,
    }


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every leaf; of a list of samples the first stands for all."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:1] if path and path[-1] == "samples_ms" else value):
            yield from leaves(inner, (*path, i))
    else:
        yield path, value


def replaced(report: Json, path: Path, value: Any) -> Json:
    changed = copy.deepcopy(report)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def without(report: Json, *keys: str) -> Json:
    return {key: value for key, value in report.items() if key not in keys}


def terminal(report: Json, width: int = 110, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    print_report(report, Console(file=stream, width=width, force_terminal=False, color_system=None))
    stream.flush()
    return raw.getvalue().decode(encoding)
