"""What each command does with its flags. Heavy imports wait inside, so that `--help` answers at once."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from channelcut.core.errors import UserError

if TYPE_CHECKING:
    from channelcut.sources import Source


def analyze(flags: Namespace) -> int:
    """`channelcut analyze`."""
    from channelcut.api import analyze as run
    from channelcut.console import Bars, print_analysis, print_json
    from channelcut.core.files import write_atomically
    from channelcut.report.analysis import analysis_data
    from channelcut.report.graph_svg import draw_graph
    from channelcut.report.reader import Part

    if flags.svg is not None:
        refuse_existing(flags.svg, flags.force, "--svg")
    source, shape = _source(flags)
    with Bars(quiet=flags.quiet or flags.json) as progress:
        progress("load", 0, 1)
        model = source.build()
        progress("load", 1, 1)
        progress("analyze", 0, 1)
        groups = run(
            model,
            _example(shape),
            tracer=flags.front_end,
            grouped=flags.grouped,
            prunable_outputs=_free_outputs(flags),
        )
        progress("analyze", 1, 1)
    data = analysis_data(model, groups)
    if flags.svg is not None:
        write_atomically(flags.svg, draw_graph(Part(data["graph"], "graph"), standalone=True).encode())
    if flags.json:
        print_json(data)
    elif not flags.quiet:
        print_analysis(data)
    return 0


def compress(flags: Namespace) -> int:
    """`channelcut compress`."""
    from channelcut.compress import CompressOptions
    from channelcut.compress import compress as run
    from channelcut.console import Bars, console, print_json
    from channelcut.recovery import Preprocessing
    from channelcut.report import print_report

    source, shape = _source(flags)
    budget = {name: value for name in ("keep", "macs", "params") if (value := getattr(flags, name)) is not None}
    options = CompressOptions(
        input_shape=shape,
        budget=budget,
        prune={
            "importance": flags.importance,
            "align": flags.align,
            "min_keep": flags.floor,
            "calibration": flags.data,
            "preprocessing": Preprocessing(flags.fit, flags.bgr, flags.scale, flags.mean, flags.std),
            "prove": flags.prove,
            "tracer": flags.front_end,
            "grouped": flags.grouped,
            "prunable_outputs": _free_outputs(flags),
        },
        capabilities=() if flags.no_engine else flags.capability,
        backend=flags.backend,
        precisions=flags.precision,
        measure=not flags.no_bench,
        profile=flags.profile,
        force=flags.force,
    )
    with Bars(quiet=flags.quiet or flags.json) as progress:
        report = run(source, flags.out, options, progress)
    if flags.json:
        print_json(report)
    elif not flags.quiet:
        print_report(report, console())
        console().print(f"Report: {flags.out / 'report.html'}", soft_wrap=True)
    return 0


def export(flags: Namespace) -> int:
    """`channelcut export`."""
    from channelcut.compress import describe_export
    from channelcut.console import Bars, console, print_json
    from channelcut.onnx_out.module import ExportOptions, onnx_from_module
    from channelcut.sources.provenance import provenance

    source, shape = _source(flags)
    refuse_existing(flags.out, flags.force)
    with Bars(quiet=flags.quiet or flags.json) as progress:
        progress("export", 0, 1)
        options = ExportOptions(
            flags.opset, flags.dynamic_batch, flags.dynamic_size, metadata=tuple(provenance(source).items())
        )
        report = describe_export(onnx_from_module(source.build(), (_example(shape),), flags.out, options))
        progress("export", 1, 1)
    if flags.json:
        print_json(report)
    elif not flags.quiet:
        console().print(
            f"{flags.out}: opset {report['opset']}, {report['nodes_before']} → {report['nodes_after']} nodes by "
            f"{report['simplifier']}, "
            f"relative error {report['max_relative_error']:.2g}, {report['size_bytes'] / 2**20:.2f} MiB",
            soft_wrap=True,
        )
        for warning in report["warnings"]:
            console().print(f"warning: {warning}", markup=False, soft_wrap=True)
    return 0


def report(flags: Namespace) -> int:
    """`channelcut report`."""
    from channelcut.console import console, print_json
    from channelcut.core.files import write_atomically
    from channelcut.report import print_report, render_html

    data = read_report(flags.folder)
    write_atomically(flags.folder / "report.html", render_html(data).encode())
    if flags.json:
        print_json(data)
    elif not flags.quiet:
        print_report(data, console())
        console().print(f"Report: {flags.folder / 'report.html'}", soft_wrap=True)
    return 0


def read_report(folder: Path) -> dict[str, Any]:
    """Read `report.json` of a result folder."""
    path = Path(folder) / "report.json"
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no result of `channelcut compress`: it has no report.json.") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is damaged ({error}). Write the result again with `channelcut compress --force`."
        ) from error
    for extra in ("parity", "profile"):
        found = Path(folder) / f"{extra}.json"
        if found.is_file():
            try:
                data[extra] = json.loads(found.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise UserError(f"{found} is damaged ({error}). Delete it, or write it again.") from error
    return data


def parse_shape(text: str) -> tuple[int, ...]:
    """`1x3x640x640` as (1, 3, 640, 640)."""
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UserError(
            f"--input {text!r} is no shape. Expected extents joined by x, batch first, such as 1x3x640x640."
        )
    return shape


def _source(flags: Namespace) -> tuple[Source, tuple[int, ...]]:
    import torch

    from channelcut.sources import open_source

    torch.set_num_threads(max(1, flags.threads))
    given = parse_shape(flags.input) if flags.input else None
    source = open_source(flags.model, flags.weights, trust=flags.trust, input_shape=given)
    shape = given or source.input_shape
    if shape is None:
        raise UserError(f"The input shape of {flags.model} is not known. Give it, batch first: --input 1x3x640x640.")
    return source, shape


def _free_outputs(flags: Namespace) -> tuple[str, ...] | None:
    return tuple(flags.free_outputs) if flags.free_outputs else None


def _example(shape: tuple[int, ...]) -> Any:
    import torch

    torch.manual_seed(0)
    return torch.rand(shape)


def refuse_existing(path: Path, force: bool, flag: str = "--out") -> None:
    """Raise `UserError` when `path` exists and `force` is not set."""
    if path.exists() and not force:
        raise UserError(f"{path} exists. Nothing was changed: give another {flag}, or --force to replace it.")
