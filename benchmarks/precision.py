"""Accuracy of fp32, fp16, bf16 and int8, original and pruned, on coco128 val, with real weights.

    python -m benchmarks.precision                 # all detectors, resumes where it stopped
    python -m benchmarks.precision nanodet_m

Calibrated, recalibrated and judged for its output error on images of coco128 train; mAP is over the 128 images of val.
Pruning is mild and without training, so that accuracy is left to compare. ONNX Runtime on the CPU has no bf16
convolution: that row runs the simulation of `channelcut.precision.cast`. Its fp16 kernels are casts around float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import onnx
import torch
from rich.progress import track
from torch import Tensor, nn

from benchmarks.zoo.data import require_assets
from benchmarks.zoo.registry import ENTRIES, Entry
from channelcut import prune
from channelcut.bench.environment import environment
from channelcut.core.errors import BudgetError
from channelcut.core.files import write_atomically
from channelcut.onnx_out.module import onnx_from_module
from channelcut.onnx_out.runtime import session_from_file
from channelcut.precision.cast import castable, prepared, simulated
from channelcut.precision.convert import convert_precision

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "precision"
DETECTORS = ("fastestdet", "nanodet_m", "yolov5n")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
MACS, ALIGN, TUNING_IMAGES, CALIBRATION_IMAGES = 0.95, 4, 128, 64


def rows(entry: Entry) -> list[dict[str, Any]]:
    """Every precision of the original and of the pruned detector."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = entry.load(require_assets())
    images = entry.calibration(TUNING_IMAGES)
    result = prune(model, torch.rand(entry.input_shape), macs=MACS, align=ALIGN, calibration=images)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for side, module in (("original", model), ("pruned", result.model)):
            plain = Path(folder) / f"{side}.onnx"
            onnx_from_module(module, (torch.rand(entry.input_shape),), plain)
            for precision in PRECISIONS:
                facts = {"network": entry.name, "side": side, "precision": precision, "macs": MACS, "align": ALIGN}
                found.append(facts | one(entry, plain, precision, images[:CALIBRATION_IMAGES], module))
    return found


def one(entry: Entry, plain: Path, precision: str, images: Tensor, module: nn.Module) -> dict[str, Any]:
    """Convert, measure the error, and judge."""
    out = plain
    facts: dict[str, Any] = {"size_mib": plain.stat().st_size / 2**20}
    if precision != "fp32":
        out, start = plain.with_suffix(f".{precision}.onnx"), process_time()
        try:
            report = convert_precision(plain, out, precision, images.numpy())
        except BudgetError as error:
            return {"stayed_fp32": str(error)}
        facts = {
            "size_mib": report.size_bytes / 2**20,
            "error": report.error,
            "unrestricted_error": report.unrestricted_error,
            "lowered": report.lowered,
            "kept": list(report.kept),
            "rest": report.rest,
            "rest_lowered": report.rest_lowered,
            "rest_kept": list(report.rest_kept),
            "convert_cpu_s": process_time() - start,
        }
        if precision == "bf16":
            source = prepared(onnx.load(str(plain)), "bf16")
            chosen = [n for n in castable(source, "bf16") if n not in set(report.kept)]
            onnx.save(simulated(source, "bf16", chosen), str(out))
    session = session_from_file(out)
    name = session.get_inputs()[0].name
    like = module(torch.rand(entry.input_shape))

    def run(batch: Tensor) -> Any:
        outputs = [torch.from_numpy(a) for a in session.run(None, {name: batch.numpy()})]
        return outputs[0] if isinstance(like, Tensor) else outputs

    return {**facts, **entry.evaluate(run, batch_size=1)}


def table(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| network | model | precision | mAP | AP50 | output error | all lowered | nodes by precision | ONNX |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in found:
        start = f"| {r['network']} | {r['side']} | {r['precision']} |"
        if "stayed_fp32" in r:
            lines.append(f"{start} – | – | stayed fp32 | – | – | – |")
            continue
        middle = f"{r['error']:.2g} | {r['unrestricted_error']:.2g} | {nodes(r)}" if "error" in r else "– | – | –"
        lines.append(f"{start} {r['map']:.3f} | {r['ap50']:.3f} | {middle} | {r['size_mib']:.2f} MiB |")
    return "\n".join(lines) + "\n"


def nodes(row: dict[str, Any]) -> str:
    """How many nodes are in the precision, and what those that could be, but are not, compute in."""
    text = f"{row['lowered']} {row['precision']}, {len(row['kept'])} kept {row['rest']}"
    return text + (f"; {len(row['rest_kept'])} others fp32" if row["rest_kept"] else "")


def summary(found: list[dict[str, Any]]) -> str:
    """mAP by precision, one line a network and side, as Markdown."""
    lines = [f"| network | model | {' | '.join(PRECISIONS)} |", f"|---|---|{'---|' * len(PRECISIONS)}"]
    for network, side in dict.fromkeys((r["network"], r["side"]) for r in found):
        row = {r["precision"]: r for r in found if (r["network"], r["side"]) == (network, side)}
        cells = [f"{row[p]['map']:.3f}" if "map" in row[p] else "stayed fp32" for p in PRECISIONS]
        lines.append(f"| {network} | {side} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def document() -> tuple[dict[str, Any], str] | None:
    """precision.json and precision.md of the detectors that are there."""
    parts = [json.loads((ROWS / f"{n}.json").read_text()) for n in DETECTORS if (ROWS / f"{n}.json").exists()]
    if not parts:
        return None
    found = [row for part in parts for row in part["rows"]]
    about = parts[0]["environment"]
    versions = ", ".join(f"{name} {about['libraries'][name]}" for name in ("torch", "onnx", "onnxruntime"))
    head = (
        f"Made by `python -m benchmarks.precision`: {about['cpu']}, {about['threads']} thread, {versions}; "
        f"coco128 val, 128 images.\n\nPruned: macs={MACS}, align={ALIGN}, recalibrated, not trained. bf16 is "
        "simulated. Beside int8 the rest is fp16.\n\nmAP:\n\n"
    )
    data = {"command": "python -m benchmarks.precision", "environment": about, "rows": found}
    return data, f"{head}{summary(found)}\nAll of it:\n\n{table(found)}"


def write_results() -> None:
    """Write precision.json and precision.md, where there is a detector."""
    made = document()
    if made is not None:
        write_atomically(RESULTS / "precision.json", json.dumps(made[0], indent=1).encode())
        write_atomically(RESULTS / "precision.md", made[1].encode())


def main() -> None:
    """Measure the detectors that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="*", help=f"all by default: {', '.join(DETECTORS)}")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    flags = parser.parse_args()
    names = [n for n in flags.detectors or DETECTORS if flags.fresh or not (ROWS / f"{n}.json").exists()]
    for name in track(names, description="detectors"):
        part = {"rows": rows(ENTRIES[name]), "environment": environment(1)}
        write_atomically(ROWS / f"{name}.json", json.dumps(part, indent=1).encode())
        write_results()
    write_results()


if __name__ == "__main__":
    main()
