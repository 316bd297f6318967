"""Original against pruned on an NVIDIA GPU, every backend that is there. Has not run on a GPU yet.

    python -m benchmarks.gpu --prepare DIR           # without a GPU: prune everything, write ONNX files into DIR
    python -m benchmarks.gpu --read DIR --quick      # on the GPU: measure within 8 minutes; goes on where it stopped

Preparing needs ultralytics and torchvision for their models and skips, by name, what is not installed. Measuring needs
torch, onnx and what channelcut needs to read ONNX. Weights are random: times do not depend on them. `--stand-in` runs
everything on the CPU, to test the control flow; its results are marked and are no GPU's.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from channelcut.bench.environment import environment
from channelcut.core.errors import ChannelcutError
from channelcut.core.files import write_atomically

RESULTS = Path(__file__).parent / "results"
SOURCES = {
    "yolo26n": "ultralytics:yolo26n.yaml",
    "yolov8n": "ultralytics:yolov8n.yaml",
    "yolo11n": "ultralytics:yolo11n.yaml",
    "yolo26s": "ultralytics:yolo26s.yaml",
    "yolo26m": "ultralytics:yolo26m.yaml",
    "resnet50": "torchvision:resnet50",
    "nanodet_m": "",
}
CUTS = ((0.5, 8), (0.75, 8), (0.5, 16), (0.25, 8), (0.5, 1))
BATCHES, PRECISIONS = (1, 32), ("fp16", "fp32")
QUICK_S = 7 * 60.0


def prepare(folder: Path, models: list[str], cuts: list[tuple[float, int]], size: int) -> None:
    """Write each model's original and cuts as ONNX with an open batch; what is there already stays."""
    import torch

    import channelcut as cc
    from channelcut.export.onnx import ExportOptions, onnx_from_module

    for name in models:
        shape = (1, 3, 224, 224) if name == "resnet50" else (1, 3, size, size)
        files = {cut: folder / f"{name}.macs{cut[0]}.align{cut[1]}.onnx" for cut in cuts}
        original = folder / f"{name}.original.onnx"
        if original.is_file() and all(path.is_file() for path in files.values()):
            continue
        torch.manual_seed(0)
        try:
            model, inputs = _built(name), (torch.rand(shape),)
            folder.mkdir(parents=True, exist_ok=True)
            for (macs, align), path in files.items():
                result = cc.prune(model, inputs, macs=macs, align=align)
                onnx_from_module(result.model, inputs, path, ExportOptions(dynamic_batch=True))
            onnx_from_module(model, inputs, original, ExportOptions(dynamic_batch=True))
        except (ChannelcutError, ImportError) as problem:
            print(f"{name}: skipped: {' '.join(str(problem).split())[:300]}", flush=True)
            continue
        print(f"{name}: prepared", flush=True)


def cases(folder: Path, backends: list[str]) -> list[dict[str, Any]]:
    """All there is to measure, the most wanted first: the first cut of every model before the second of any."""
    found = []
    for macs, align in CUTS:
        for name in SOURCES:
            if not (folder / f"{name}.macs{macs}.align{align}.onnx").is_file():
                continue
            for backend in backends:
                # TensorRT is strongly typed: the ONNX files are fp32, and so are its engines.
                for precision in PRECISIONS if backend == "torch_cuda" else ("fp32",):
                    case = {"model": name, "macs": macs, "align": align, "backend": backend, "precision": precision}
                    found += [case | {"batch": batch} for batch in BATCHES]
    return found


def measure_case(folder: Path, case: dict[str, Any], seconds: float, *, stand_in: bool) -> dict[str, Any]:
    """Both sides in turns; an error that channelcut explains becomes the case's result."""
    import numpy as np

    from channelcut.bench.measure import BenchOptions, measure

    try:
        paths = _files(folder, case)
        runners = [_runner(path, case, folder, stand_in=stand_in) for path in paths]
        random = np.random.default_rng(0)
        works = []
        for runner in runners:
            ((input_name, (shape, dtype)),) = runner.inputs.items()
            image = random.random((case["batch"], *shape[1:]), dtype=np.float32).astype(dtype)
            works.append(runner.prepared({input_name: image}))
        device = "cpu stand-in" if stand_in else "cuda"
        options = BenchOptions(time_limit_s=seconds, min_rounds=4, batch=case["batch"], device=device)
        return case | {"stand_in": stand_in, "measurement": measure(works[0], works[1], options).to_dict()}
    except (ChannelcutError, RuntimeError) as problem:
        return case | {"stand_in": stand_in, "error": " ".join(str(problem).split())[:400]}


def run(folder: Path, out: Path, backends: list[str], seconds: float, limit_s: float, *, stand_in: bool) -> int:
    """Measure what `out` does not hold yet until `limit_s` is over; returns how many cases remain."""
    end = time.monotonic() + limit_s
    known = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    rows: list[dict[str, Any]] = known.get("rows", [])
    done = {_key(row) for row in rows if row["stand_in"] == stand_in}
    left = [case for case in cases(folder, backends) if _key(case) not in done]
    while left and time.monotonic() < end:
        rows.append(measure_case(folder, left.pop(0), seconds, stand_in=stand_in))
        data = {"command": "python -m benchmarks.gpu", "environment": environment(1), "rows": rows}
        write_atomically(out, json.dumps(data, indent=1, default=str).encode())
        write_atomically(out.with_suffix(".md"), table(rows).encode())
    print(f"{len(rows)} measured, {len(left)} left; run again to go on" if left else f"all {len(rows)} measured")
    return len(left)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | MACs, align | backend | precision | batch | pruned / original (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        m = row.get("measurement")
        ratio = f"{m['ratio']:.3f} ({m['ratio_low']:.3f} to {m['ratio_high']:.3f})" if m else row["error"]
        where = row["backend"] + (" (CPU stand-in, no GPU)" if row["stand_in"] else "")
        cells = [row["model"], f"{row['macs']}, {row['align']}", where, row["precision"], str(row["batch"]), ratio]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _files(folder: Path, case: dict[str, Any]) -> tuple[Path, Path]:
    name = case["model"]
    return folder / f"{name}.original.onnx", folder / f"{name}.macs{case['macs']}.align{case['align']}.onnx"


def _runner(onnx: Path, case: dict[str, Any], folder: Path, *, stand_in: bool) -> Any:
    from channelcut.engine.protocol import EngineOptions
    from channelcut.engine.registry import require
    from channelcut.engine.torch_cuda import runner_from_onnx

    provider = "cuda" if case["backend"] == "onnxruntime" and not stand_in else "cpu"
    options = EngineOptions(precision=case["precision"], graph=True, batch=(1, case["batch"], 32), provider=provider)
    if stand_in and case["backend"] == "torch_cuda":
        return runner_from_onnx(onnx, options, "cpu")
    backend = require(case["backend"])
    if case["backend"] in {"torch_cuda", "onnxruntime"}:
        return backend.load(onnx, options)
    engine = folder / f"{onnx.stem}.batch{case['batch']}.{case['backend']}.engine"
    if not engine.is_file():
        backend.build(onnx, engine, options)
    return backend.load(engine, options)


def _built(name: str) -> Any:
    from channelcut.adapters import open_source

    if name == "nanodet_m":
        from benchmarks.zoo import nanodet

        return nanodet.build().eval()
    return open_source(SOURCES[name]).build()


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("model", "macs", "align", "backend", "precision", "batch"))


def _backends(*, stand_in: bool) -> list[str]:
    """torch-cuda always; the others where their package is installed."""
    from importlib.util import find_spec

    others = [] if stand_in else [n for n in ("tensorrt", "tensorrt_rtx") if find_spec(n) is not None]
    if not stand_in and find_spec("onnxruntime") is not None:
        import onnxruntime

        others += ["onnxruntime"] * ("CUDAExecutionProvider" in onnxruntime.get_available_providers())
    return ["torch_cuda", *others]


def main() -> None:
    """Parse and run."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--prepare", type=Path, metavar="DIR")
    flags.add_argument("--read", type=Path, metavar="DIR")
    flags.add_argument("--models", nargs="+", default=list(SOURCES), choices=list(SOURCES))
    flags.add_argument("--cuts", type=int, default=len(CUTS), help="how many of the budgets and alignments to prepare")
    flags.add_argument("--size", type=int, default=640)
    flags.add_argument("--quick", action="store_true", help="stop after 7 minutes, one more case at most")
    flags.add_argument("--stand-in", action="store_true", help="on the CPU, to test; no GPU's results")
    flags.add_argument("--seconds", type=float, default=3.0, help="time limit of each measurement")
    flags.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    chosen = flags.parse_args()
    if chosen.prepare is None and chosen.read is None:
        flags.error("give --prepare DIR, --read DIR or both")
    if chosen.prepare is not None:
        prepare(chosen.prepare, chosen.models, list(CUTS[: chosen.cuts]), chosen.size)
    if chosen.read is not None:
        limit_s = QUICK_S if chosen.quick else float("inf")
        names = _backends(stand_in=chosen.stand_in)
        run(chosen.read, chosen.out, names, chosen.seconds, limit_s, stand_in=chosen.stand_in)


if __name__ == "__main__":
    main()
