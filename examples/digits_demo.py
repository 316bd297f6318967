"""Train a detector in about a minute, compress it as a user would, and show what that cost and what it brought.

Run ``python -m examples.digits_demo`` in the repository's root, after ``pip install 'channelcut[demo]'``. Everything is
written below ``runs/demo``; a second run reuses the trained weights, and an interrupted training goes on where it
stopped.

Images reach the network as RGB divided by 255, at 128×128, without mean or deviation, in training, evaluation and
calibration alike; that is also how ``channelcut compress --data`` reads a folder unless told otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import channelcut
from channelcut.cli import main as channelcut_command
from channelcut.core.errors import ChannelcutError, UserError
from channelcut.core.files import write_atomically
from examples import digits_detector
from examples.digits_detector import IMAGE_SIZE, build
from examples.digits_map import Accuracy, evaluate
from examples.digits_scenes import make_scenes, write_calibration_images
from examples.digits_train import TrainOptions, save_atomically, train

VAL_SEED, CALIBRATION_SEED = 5, 2  # training settings were chosen on seed 1
MACS, ALIGN = 0.5, 8


@dataclass(frozen=True)
class Settings:
    """The sizes of a run: how long to train and to fine-tune, and how many scenes to judge and to calibrate on."""

    folder: Path
    options: TrainOptions
    val_scenes: int = 200
    calibration_images: int = 128
    tuning: TrainOptions = field(default_factory=lambda: TrainOptions(steps=200, learning_rate=1.5e-3, seed=3))
    threads: int = 1
    bench: bool = True

    @property
    def weights(self) -> Path:
        """Where the trained state dict is kept."""
        return self.folder / "digits.pt"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns 0, or 2 after an error that the user can put right."""
    arguments = _parser().parse_args(argv)
    console = Console(highlight=False)
    try:
        run(_settings(arguments), arguments.fresh, console)
    except ChannelcutError as error:
        console.print(f"digits demo: {error}", markup=False, soft_wrap=True)
        return 2
    return 0


def run(settings: Settings, fresh: bool, console: Console) -> None:
    """Train or reuse, evaluate, compress through the command line, evaluate again, and print the table."""
    start = time.perf_counter()
    torch.set_num_threads(settings.threads)
    model = trained(settings, fresh, console)
    scenes = make_scenes(settings.val_scenes, VAL_SEED, "val")
    accuracies = {"original": evaluate(model, scenes)}
    images, result = settings.folder / "images", settings.folder / "result"
    write_calibration_images(images, settings.calibration_images, CALIBRATION_SEED)
    command = compress_command(settings, images, result)
    console.print(f"\n$ channelcut {shlex.join(command)}", markup=False, soft_wrap=True)
    if (status := channelcut_command(command)) != 0:
        raise UserError(f"channelcut compress ended with status {status}; its message is above.")
    example = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    as_cut = channelcut.prune(model, example, macs=MACS, align=ALIGN).model
    recalibrated = channelcut.load(build, result)
    if _shapes(as_cut) == _shapes(recalibrated):
        accuracies["as cut"] = evaluate(as_cut, scenes)
    accuracies["recalibrated"] = evaluate(recalibrated, scenes)
    console.print("\nThe pruned network is an ordinary module, so the same training goes on with it, now with labels:")
    train(recalibrated, settings.tuning)
    tuned = settings.folder / "finetuned.pt"
    save_atomically(recalibrated.state_dict(), tuned)
    accuracies[f"fine-tuned, {settings.tuning.steps} steps"] = evaluate(recalibrated, scenes)
    report = json.loads((result / "report.json").read_text(encoding="utf-8"))
    console.print()
    console.print(summary(accuracies, report))
    for line in [*findings(report, result), *caveats(settings, tuned)]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"The demo took {time.perf_counter() - start:.0f} s.")
    console.print(str(result / "report.html"), markup=False, soft_wrap=True)


def trained(settings: Settings, fresh: bool, console: Console) -> nn.Module:
    """Return the trained detector in evaluation mode, from the kept weights where they fit these options."""
    record, state = settings.weights.with_suffix(".json"), settings.weights.with_suffix(".state")
    if fresh:
        for path in (settings.weights, record, state):
            path.unlink(missing_ok=True)
    torch.manual_seed(settings.options.seed)
    model = build()
    wanted = json.dumps(asdict(settings.options))
    if settings.weights.is_file() and record.is_file() and record.read_text("utf-8") == wanted:
        try:
            model.load_state_dict(torch.load(settings.weights, weights_only=True))
        except (RuntimeError, EOFError) as error:
            raise UserError(
                f"{settings.weights} does not hold weights of this version of the detector. Pass --fresh to train anew."
            ) from error
        console.print(f"Reusing {settings.weights}; --fresh trains anew.", markup=False, soft_wrap=True)
        return model.eval()
    start = time.perf_counter()
    train(model, settings.options, state)
    console.print(f"Trained for {time.perf_counter() - start:.0f} s on {settings.threads} thread(s).")
    save_atomically(model.state_dict(), settings.weights)
    write_atomically(record, wanted.encode())
    state.unlink(missing_ok=True)
    return model.eval()


def compress_command(settings: Settings, images: Path, result: Path) -> list[str]:
    """The arguments of `channelcut` that a user would type; without an engine where none can be built."""
    source = Path(digits_detector.__file__)
    if source.is_relative_to(Path.cwd()):
        source = source.relative_to(Path.cwd())
    command = ["compress", f"{source}:build", "--weights", str(settings.weights)]
    command += ["--input", f"1x3x{IMAGE_SIZE}x{IMAGE_SIZE}", "--macs", str(MACS), "--align", str(ALIGN)]
    command += ["--data", str(images), "--out", str(result), "--force"]
    if importlib.util.find_spec("tensorrt_rtx") is None:
        command.append("--no-engine")
    return command if settings.bench else [*command, "--no-bench"]


def summary(accuracies: dict[str, Accuracy], report: dict[str, Any]) -> Table:
    """Accuracy, size and latency of every stage that was evaluated; latency where it was measured."""
    table = Table(title="Handwritten digits: what compression cost and what it brought", title_justify="left")
    table.add_column("")
    for name in ("mAP", "mAP50", "parameters", "MMACs", "median ms"):
        table.add_column(name, justify="right")
    medians = _medians(report)
    for stage, accuracy in accuracies.items():
        uncut = stage == "original"
        cost = report["cost"]["before" if uncut else "after"]
        median = medians.get("baseline" if uncut else "candidate")
        size = (
            f"{cost['params']:,.0f}",
            f"{cost['macs'] / 1e6:.1f}",
            "not measured" if median is None else f"{median:.2f}",
        )
        table.add_row(stage, f"{accuracy.map:.3f}", f"{accuracy.map50:.3f}", *size)
    return table


def findings(report: dict[str, Any], result: Path) -> list[str]:
    """The latency ratio with its interval, the engines, and the report's own notes, a line each."""
    lines = []
    measured = report.get("measurement")
    if measured:
        lines.append(
            f"Latency, pruned / original: {measured['ratio']:.3f} (95 % interval {measured['ratio_low']:.3f} to "
            f"{measured['ratio_high']:.3f})."
        )
        lines += [f"Warning of the measurement: {warning}" for warning in measured["warnings"]]
    engines = sorted(result.glob("*.engine"))
    lines += [f"Engine: {engine} ({engine.stat().st_size / 2**20:.2f} MiB)" for engine in engines]
    if not engines:
        lines.append("Engine: none built. Run: pip install 'channelcut[rtx]'")
    return lines + [f"Note: {note}" for note in report.get("notes", [])]


def caveats(settings: Settings, tuned: Path) -> list[str]:
    """What the table alone could be misread to say."""
    return [
        f"Note: the engine and the ONNX file hold the recalibrated weights. For the fine-tuned ones: channelcut export "
        f"{tuned.parent / 'result'} --weights {tuned} --out {tuned.with_suffix('.onnx')}",
        f"Note: the original had {settings.options.steps} steps and would gain from {settings.tuning.steps} more, too.",
    ]


def _medians(report: dict[str, Any]) -> dict[str, float]:
    measured = report.get("measurement") or {}
    samples = {side: sorted(measured[side]["samples_ms"]) for side in ("baseline", "candidate") if side in measured}
    return {side: float(torch.tensor(times).quantile(0.5)) for side, times in samples.items()}


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _settings(arguments: argparse.Namespace) -> Settings:
    if arguments.quick:
        folder = arguments.out or Path("runs/demo-quick")
        few = TrainOptions(steps=6, batch=4)
        return Settings(folder, few, 8, 8, few, arguments.threads, bench=False)
    return Settings(arguments.out or Path("runs/demo"), TrainOptions(), threads=arguments.threads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.digits_demo", description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--fresh", action="store_true", help="train anew even if trained weights are there")
    parser.add_argument("--quick", action="store_true", help="a few steps and scenes: shows that it runs, nothing more")
    parser.add_argument("--out", type=Path, help="where to write (default runs/demo, with --quick runs/demo-quick)")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of torch; scenes are drawn on one more (default 1)"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
