"""Engines of Ultralytics' detection models at scale n, original and pruned, built by TensorRT-RTX without a GPU.

    python -m benchmarks.engines                     # every model, SM80, 86, 89 and 120; goes on where it stopped
    python -m benchmarks.engines --models yolo26n yolov8n --capabilities sm89

Models come from their YAML with random weights: build time, engine size and latency do not depend on the weights, the
choice of channels does. Files are of the deployed form (one head, raw). Latency is ONNX Runtime's, fp32, one CPU
thread, both models in turns. No engine is run here:
that needs the GPU it was built for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from channelcut.bench.environment import environment
from channelcut.core.errors import ChannelcutError
from channelcut.core.files import write_atomically

RESULTS = Path(__file__).parent / "results"
MODELS = (
    "yolo26n", "yolov8n", "yolo11n", "yolov5n", "yolov6n", "yolov9t", "yolov10n", "yolo12n", "yolov3-tiny",
    "yolov8-worldv2", "rtdetr-l",
)  # fmt: skip
CAPABILITIES = ("sm80", "sm86", "sm89", "sm120")
MACS, ALIGN = 0.5, 8


def row(name: str, capabilities: tuple[str, ...], size: int, seconds: float) -> dict[str, Any]:
    """Prune one model, build every engine, time both ONNX files; an error of one model is its row."""
    import torch

    import channelcut as cc
    from channelcut.bench.measure import BenchOptions
    from channelcut.bench.onnx import measure_onnx
    from channelcut.engine.protocol import EngineOptions
    from channelcut.engine.registry import require
    from channelcut.sources import open_source

    torch.manual_seed(0)
    inputs = (torch.rand(1, 3, size, size),)
    model = open_source(f"ultralytics:{name}.yaml").build()
    result = cc.prune(model, inputs, macs=MACS, align=ALIGN)
    found: dict[str, Any] = {"model": name, "macs_left": result.plan.macs_ratio, "engines": {}}
    backend = require("tensorrt_rtx")
    with tempfile.TemporaryDirectory() as folder:
        files = {side: Path(folder) / f"{side}.onnx" for side in ("original", "pruned")}
        cc.export(model, files["original"], inputs)
        cc.export(result, files["pruned"], inputs)
        found["onnx_mib"] = {side: path.stat().st_size / 2**20 for side, path in files.items()}
        measurement = measure_onnx(files["original"], files["pruned"], BenchOptions(time_limit_s=seconds))
        found["latency_ms"] = {"original": measurement.baseline.median_ms, "pruned": measurement.candidate.median_ms}
        found["ratio"] = [measurement.ratio_low, measurement.ratio, measurement.ratio_high]
        for capability in capabilities:
            for side, path in files.items():
                report = backend.build(path, Path(folder) / "e", EngineOptions(capability=capability))
                built = {"build_s": report.build_s, "size_mib": report.size_mib, "version": report.version}
                found["engines"].setdefault(capability, {})[side] = built
    return found


def table(rows: list[dict[str, Any]], capabilities: tuple[str, ...]) -> str:
    """The rows as Markdown."""
    head = ["model", "MACs left", "ONNX Runtime, original → pruned", "pruned / original (95 %)"]
    lines = ["| " + " | ".join([*head, *(f"{c}: size, build" for c in capabilities)]) + " |"]
    lines.append("|" + "---|" * (len(head) + len(capabilities)))
    for found in rows:
        if "error" in found:
            lines.append(f"| {found['model']} | {found['error']} |" + " |" * (len(head) + len(capabilities) - 2))
            continue
        low, ratio, high = found["ratio"]
        ms = found["latency_ms"]
        cells = [found["model"], f"{found['macs_left']:.2f}", f"{ms['original']:.1f} → {ms['pruned']:.1f} ms"]
        cells.append(f"{ratio:.3f} ({low:.3f} to {high:.3f})")
        for capability in capabilities:
            both = found["engines"].get(capability)
            if both is None:
                cells.append("–")
                continue
            a, b = both["original"], both["pruned"]
            sizes = f"{a['size_mib']:.1f} → {b['size_mib']:.1f} MiB"
            cells.append(f"{sizes}, {a['build_s']:.1f} → {b['build_s']:.1f} s")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run(out: Path, models: list[str], capabilities: tuple[str, ...], size: int, seconds: float) -> dict[str, Any]:
    """Measure what `out` does not hold yet, write it after every model, and return all of it."""
    settings = {"macs": MACS, "align": ALIGN, "size": size, "capabilities": list(capabilities)}
    known = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    rows: list[dict[str, Any]] = known.get("rows", []) if known.get("settings") == settings else []
    data = {"command": "python -m benchmarks.engines", "settings": settings, "rows": rows}
    for name in models:
        if any(found["model"] == name for found in rows):
            continue
        try:
            found = row(name, capabilities, size, seconds)
        except ChannelcutError as problem:
            found = {"model": name, "error": " ".join(str(problem).split())[:300]}
        rows.append(found | {"environment": environment(1)})
        write_atomically(out, json.dumps(data, indent=1, default=str).encode())
        text = (
            f"Made by `python -m benchmarks.engines`: inputs 1×3×{size}×{size}, MACs {MACS}, widths in multiples of "
            f"{ALIGN}, random weights; engines built without a GPU and not run. Environments in the JSON.\n\n"
        )
        write_atomically(out.with_suffix(".md"), (text + table(rows, capabilities)).encode())
        print(f"{name}: {found.get('error') or found['ratio']}", flush=True)
    return data


def main() -> None:
    """Parse and run."""
    import torch

    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--models", nargs="+", default=list(MODELS))
    flags.add_argument("--capabilities", nargs="+", default=list(CAPABILITIES))
    flags.add_argument("--size", type=int, default=320)
    flags.add_argument("--seconds", type=float, default=15.0, help="time limit of each latency measurement")
    flags.add_argument("--out", type=Path, default=RESULTS / "engines.json")
    chosen = flags.parse_args()
    torch.set_num_threads(1)
    run(chosen.out, chosen.models, tuple(chosen.capabilities), chosen.size, chosen.seconds)


if __name__ == "__main__":
    main()
