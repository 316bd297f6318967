"""Original against pruned on an NVIDIA GPU, every backend that is there.

    python -m benchmarks.gpu --prepare DIR                 # without a GPU: prune everything, write ONNX files into DIR
    python -m benchmarks.gpu --prepare DIR --pack PARTS    # and pack them into parts of at most 60 MiB, without weights
    python -m benchmarks.gpu --unpack PARTS --read DIR --quick    # on the GPU, within 8 minutes; run again to go on
    python -m benchmarks.gpu --plans DIR              # on the GPU: tables of layers, plans by them, see gpu_plans

Preparing needs ultralytics and torchvision for their models and skips, by name, what is not installed. Measuring needs
torch, onnx and what channelcut needs to read ONNX. Weights are random: times do not depend on them. `--stand-in` runs
everything on the CPU, to test the control flow; its results are marked and are no GPU's.

torch-cuda takes its precision as an option. The TensorRTs and ONNX Runtime take it from the file, which is there in
fp32 and fp16.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_files import CUTS, PRECISIONS, SOURCES, file_of, pack, prepare, unpack
from channelcut.bench.environment import environment
from channelcut.core.errors import ChannelcutError
from channelcut.core.files import write_atomically

RESULTS = Path(__file__).parent / "results"
BATCHES = (1, 32)
QUICK_S = 8 * 60.0
# What a row of a backend is taken to need before one was measured: the TensorRTs build two engines first.
FIRST_ROW_S = {"torch_cuda": 20.0, "onnxruntime": 20.0, "tensorrt_rtx": 40.0, "tensorrt": 120.0}
_RESERVE_S = 10.0  # of the limit, for what surrounds the rows


def cases(folder: Path, backends: list[str], batches: Sequence[int] = BATCHES) -> list[dict[str, Any]]:
    """All there is to measure, the most wanted first: the first cut of every model before the second of any."""
    found = []
    for cut in CUTS:
        for name in SOURCES:
            for backend in backends:
                for precision in reversed(PRECISIONS):
                    stored = "fp32" if backend == "torch_cuda" else precision
                    if not all(file_of(folder, name, c, stored).is_file() for c in (None, cut)):
                        continue
                    case = {"model": name, "macs": cut[0], "align": cut[1], "backend": backend, "precision": precision}
                    found += [case | {"batch": batch} for batch in batches]
    return found


def measure_case(folder: Path, case: dict[str, Any], seconds: float, *, stand_in: bool) -> dict[str, Any]:
    """Both sides in turns; an error that channelcut explains becomes the case's result."""
    import numpy as np

    from channelcut.bench.measure import BenchOptions, measure

    try:
        stored = "fp32" if case["backend"] == "torch_cuda" else case["precision"]
        paths = [file_of(folder, case["model"], c, stored) for c in (None, (case["macs"], case["align"]))]
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


def run(
    folder: Path,
    out: Path,
    backends: list[str],
    seconds: float,
    limit_s: float,
    *,
    stand_in: bool,
    batches: Sequence[int] = BATCHES,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Measure what `out` does not hold yet until `limit_s` would be passed; returns how many cases remain.

    Before each row, what is left must be half as much again as the longest row of its backend and batch has taken; rows
    that do not fit are left, and others go on.
    """
    start = clock()
    known = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    rows: list[dict[str, Any]] = known.get("rows", [])
    done = {_key(row) for row in rows if row["stand_in"] == stand_in}
    left = [case for case in cases(folder, backends, batches) if _key(case) not in done]
    longest: dict[tuple[str, int], float] = {}
    remain = 0
    for case in left:
        now = clock()
        kind = case["backend"], case["batch"]
        needed = longest.get(kind, FIRST_ROW_S[case["backend"]])
        if now - start + needed > limit_s - min(_RESERVE_S, limit_s / 10):
            remain += 1
            continue
        rows.append(measure_case(folder, case, seconds, stand_in=stand_in))
        longest[kind] = max(longest.get(kind, 0.0), 1.5 * (clock() - now))
        data = {"command": "python -m benchmarks.gpu", "environment": environment(1), "rows": rows}
        write_atomically(out, json.dumps(data, indent=1, default=str).encode())
        write_atomically(out.with_suffix(".md"), table(rows).encode())
    print(f"{len(rows)} measured, {remain} left; run again to go on" if remain else f"all {len(rows)} measured")
    return remain


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | MACs, align | backend | precision | batch | original → pruned, ms | pruned / original (95 %) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        m = row.get("measurement")
        ratio = f"{m['ratio']:.3f} ({m['ratio_low']:.3f} to {m['ratio_high']:.3f})" if m else row["error"]
        sides = [m[side]["statistics"]["median_ms"] for side in ("baseline", "candidate")] if m else []
        times = " → ".join(f"{ms:.2f}" for ms in sides) or "–"
        where = row["backend"] + (" (CPU stand-in, no GPU)" if row["stand_in"] else "")
        cells = [
            row["model"],
            f"{row['macs']}, {row['align']}",
            where,
            row["precision"],
            str(row["batch"]),
            times,
            ratio,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


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


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("model", "macs", "align", "backend", "precision", "batch"))


def _backends(*, stand_in: bool) -> list[str]:
    """torch-cuda always; the others where their package is installed."""
    from importlib.util import find_spec

    if stand_in:
        return ["torch_cuda", "onnxruntime"]
    others = [n for n in ("tensorrt", "tensorrt_rtx") if find_spec(n) is not None]
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        others += ["onnxruntime"] * ("CUDAExecutionProvider" in onnxruntime.get_available_providers())
    return ["torch_cuda", *others]


def plans(folder: Path, out: Path, *, stand_in: bool) -> int:
    """Tables and plans, within 8 minutes; another run goes on."""
    from benchmarks.gpu_plans import Where
    from benchmarks.gpu_plans import run as planned

    where = Where(folder, "onnxruntime", "fp32") if stand_in else Where(folder)
    return planned(out.with_name("gpu_plans.json"), where, QUICK_S)


def main() -> None:
    """Parse and run."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--prepare", type=Path, metavar="DIR")
    flags.add_argument("--pack", type=Path, metavar="PARTS", help="with --prepare: pack its files")
    flags.add_argument("--unpack", type=Path, metavar="PARTS", help="with --read: unpack into its folder first")
    flags.add_argument("--read", type=Path, metavar="DIR")
    flags.add_argument("--plans", type=Path, metavar="DIR", help="time layers, plan by them; DIR keeps the tables")
    flags.add_argument("--models", nargs="+", default=list(SOURCES), choices=list(SOURCES))
    flags.add_argument("--cuts", type=int, default=len(CUTS), help="how many of the budgets and alignments to prepare")
    flags.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    flags.add_argument("--size", type=int, default=640)
    flags.add_argument("--quick", action="store_true", help="within 8 minutes; another run goes on")
    flags.add_argument("--stand-in", action="store_true", help="on the CPU, to test; no GPU's results")
    flags.add_argument("--seconds", type=float, default=3.0, help="time limit of each measurement")
    flags.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    chosen = flags.parse_args()
    start = time.monotonic()
    if chosen.plans is not None:
        plans(chosen.plans, chosen.out, stand_in=chosen.stand_in)
    if chosen.prepare is None and chosen.read is None:
        if chosen.plans is None:
            flags.error("give --prepare DIR, --read DIR, both, or --plans DIR")
        return
    if chosen.prepare is not None:
        prepare(chosen.prepare, chosen.models, list(CUTS[: chosen.cuts]), chosen.size)
        if chosen.pack is not None:
            for part in pack(chosen.prepare, chosen.pack):
                print(f"{part.name}: {part.stat().st_size / 2**20:.1f} MiB")
    if chosen.read is not None:
        if chosen.unpack is not None:
            unpack(chosen.unpack, chosen.read)
        limit_s = QUICK_S - (time.monotonic() - start) if chosen.quick else float("inf")
        names = _backends(stand_in=chosen.stand_in)
        run(chosen.read, chosen.out, names, chosen.seconds, limit_s, stand_in=chosen.stand_in, batches=chosen.batches)


if __name__ == "__main__":
    main()
