"""Flags that several commands share, in groups: each group declares its flags, and reads its values out of a namespace.

Heavy imports wait in what reads, so that `--help` answers at once.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from channelcut.cli import budget_flags, parsing
from channelcut.core.errors import UserError

if TYPE_CHECKING:
    from channelcut.allocation import Budget
    from channelcut.core.deployed import Deploy
    from channelcut.core.specs import InputSpec
    from channelcut.options import PruneOptions
    from channelcut.sources import Source

MODEL = (
    "ultralytics:NAME.pt|.yaml, torchvision:NAME, timm:NAME, file.py:factory, package.module:factory, "
    "a .onnx file, or a result folder"
)
ALIGN = 8  # what widths are multiples of where no target says more
TRUST = "allow a model or weights that are a pickle, which runs its author's code"
INPUT = (
    "shape of the input, batch first; a name and a type where they are needed, such as mask=1x1x320x320:uint8; "
    "repeated "
    "for several inputs; by default what the model's factory, file or library says"
)
WEIGHTS = (
    "pretrained or random (default random) for torchvision: and timm:, which may download; or a state dict to load "
    "(.pt, .pth, .safetensors)"
)


def add_model(parser: ArgumentParser) -> None:
    """The model, and how it is brought in."""
    group = parser.add_argument_group("model")
    group.add_argument("model", metavar="MODEL", help=MODEL)
    add_input(group)
    group.add_argument("--weights", metavar="pretrained|random|FILE", help=WEIGHTS)
    group.add_argument("--trust", action="store_true", help=TRUST)
    group.add_argument(
        "--threads",
        type=parsing.positive,
        default=1,
        metavar="N",
        help="CPU threads (default 1: steadiest on a shared machine)",
    )


def add_input(group: Any) -> None:
    """The inputs of a model that is no file yet."""
    group.add_argument(
        "--input", type=parsing.input_spec, action="append", default=[], metavar="[NAME=]1x3x640x640[:TYPE]", help=INPUT
    )


def read_model(flags: Namespace) -> Source:
    """The model; the process gets the threads that were asked for."""
    import torch

    torch.set_num_threads(flags.threads)
    return find_model(flags.model, flags.input, flags.weights, trust=flags.trust)


def find_model(name: str, given: Sequence[InputSpec], weights: str | None = None, *, trust: bool = False) -> Source:
    """The model of that name; what its code prints goes to standard error."""
    from channelcut.cli.console import printing_to_stderr
    from channelcut.sources import open_source

    with printing_to_stderr():
        source = open_source(name, weights, trust=trust, inputs=given)

    def make() -> Any:
        with printing_to_stderr():
            return source.make()

    return replace(source, make=make)


def add_coupling(parser: ArgumentParser) -> None:
    """What is asked of the analysis."""
    group = parser.add_argument_group("which channels go together")
    group.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules or parameters whose output widths stay, such as 'head.*'; may be repeated",
    )
    group.add_argument(
        "--tracer",
        choices=("auto", "dispatch", "export"),
        default="auto",
        help="record the ops of one run (dispatch), ask torch.export, or the one that works (default auto)",
    )
    group.add_argument(
        "--grouped",
        choices=("auto", "groups", "offsets"),
        default="auto",
        help="grouped convolutions lose whole groups, or as many channels of every group (offsets); auto (default): "
        "whole groups, but where none could go",
    )
    group.add_argument(
        "--prunable-output",
        dest="prunable_outputs",
        action="append",
        metavar="PATTERN",
        help="an output whose channels may go, by its path in the result, such as '1.feats.*'; may be repeated; by "
        "default those that the model's library is known not to count, '' for none",
    )
    group.add_argument(
        "--entry",
        dest="entries",
        action="append",
        default=[],
        metavar="METHOD",
        help="a further method that takes what forward takes, such as forward_train, so that what only it runs (an "
        "auxiliary head) is cut as well; may be repeated",
    )


def read_coupling(flags: Namespace) -> dict[str, Any]:
    """The keywords that `channelcut.analyze` and `channelcut.prune` share."""
    return {
        "tracer": flags.tracer,
        "grouped": flags.grouped,
        "prunable_outputs": None if flags.prunable_outputs is None else tuple(filter(None, flags.prunable_outputs)),
        "entries": tuple(flags.entries),
    }


def add_deploy(parser: ArgumentParser) -> None:
    """Which form of the network runs in production."""
    group = parser.add_argument_group("what is deployed")
    group.add_argument(
        "--nms",
        type=parsing.switch,
        metavar="none|true|false",
        help="of Ultralytics' detectors, as their exporter takes it: true puts suppression into the file, false takes "
        "the head that needs none (one-to-one), none leaves it to whoever runs the file (default: what their exporter "
        "does)",
    )
    group.add_argument(
        "--outputs",
        action="append",
        default=[],
        metavar="PATTERN",
        help="an output that production reads, by its path in the forward's result; the others are left out of files, "
        "cost and times; may be repeated",
    )


def read_deploy(flags: Namespace) -> Deploy:
    """The form that is deployed."""
    from channelcut.core.deployed import Deploy

    return Deploy(flags.nms, tuple(flags.outputs))


def add_allocation(parser: ArgumentParser) -> None:
    """How much is kept, and of which layers."""
    group = parser.add_argument_group("what is kept (one budget is needed)")
    budget_flags.add_budgets(group)
    add_choice(group)


def add_choice(group: Any) -> None:
    """Which channels are kept."""
    add_floors(group)
    group.add_argument(
        "--importance",
        metavar="NAME",
        help="taylor, fisher, group-fisher, reconstruction, activation (of the images of --data); l1, l2, bn, fpgm, "
        "random, or tp:NAME of torch-pruning (of weights alone); by default, with images, of Ultralytics' "
        "detectors taylor, or fisher where a trial loses clearly less by it, and fisher of others; l2 without",
    )
    group.add_argument(
        "--labels",
        action="store_true",
        help="let taylor, fisher and group-fisher rank by the gradients of the task's loss on labels, those of a "
        "data.yaml's train split or of batches() and loss() beside a factory, instead of by the outputs",
    )
    group.add_argument(
        "--blocks",
        type=parsing.blocks,
        metavar="auto|NAME[,NAME]",
        help="residual blocks that go as wholes, by the paths of their modules; auto: those without which least is "
        "lost within the budget, in one program with the widths",
    )
    group.add_argument(
        "--drop-unused",
        action="store_true",
        help="modules that the forward never reads, such as a head that training alone needs, go as wholes",
    )
    group.add_argument(
        "--restore",
        choices=("compensate", "recalibrate", "none"),
        default="compensate",
        help="with the images of --data: refit the layers behind the cut (default), measure the statistics of batch "
        "norms anew, or leave the network as cut",
    )
    group.add_argument(
        "--passes",
        type=parsing.positive,
        metavar="N",
        help="with the images of --data: rank, cut and refit in so many passes, each closer to the budget (default 4 "
        "of a detector of Ultralytics, else 1)",
    )
    group.add_argument(
        "--rescale",
        choices=("auto", "always", "never"),
        default="auto",
        help="keep the size of what survives under weight norms and behind means over channels (default auto: where "
        "--data shows that the outputs come closer to the original's)",
    )


def add_floors(group: Any) -> None:
    """The least widths."""
    group.add_argument(
        "--min-channels", type=parsing.positive, default=1, metavar="N", help="least channels of any group (default 1)"
    )
    group.add_argument(
        "--min-keep",
        type=parsing.share,
        default=0.1,
        metavar="SHARE",
        help="least share of any group that a budget leaves (default 0.1)",
    )
    group.add_argument(
        "--align",
        type=parsing.alignment,
        default="auto",
        metavar="N|auto",
        help=f"kept widths are multiples of this; auto (default): of the step that the target has where layers are "
        f"timed, else of {ALIGN}",
    )


def read_floors(flags: Namespace) -> Budget:
    """The least widths, as a budget that asks for nothing."""
    from channelcut.allocation import Budget

    return Budget(macs=1.0, align=read_align(flags), min_keep=flags.min_keep, min_channels=flags.min_channels)


def read_align(flags: Namespace) -> int:
    """The multiple of `--align` where no target says more."""
    return ALIGN if flags.align == "auto" else int(flags.align)


def _timed(flags: Namespace) -> bool:
    return flags.latency is not None or flags.latency_ms is not None


def read_keep(flags: Namespace) -> float | dict[str, float] | None:
    """The shares of `--keep`: one for all, or by pattern in the order given, "*" first.

    Raises:
        UserError: no budget at all, two shares without a pattern, or one beside --macs or --params.
    """
    plain = [value for pattern, value in flags.keep if pattern is None]
    patterns = {pattern: value for pattern, value in flags.keep if pattern is not None}
    from channelcut.allocation import LIMITS

    budget = next((f"--{name.replace('_', '-')}" for name in LIMITS if getattr(flags, name) is not None), None)
    if budget is None and not flags.keep:
        raise UserError(
            "Nothing says how much to keep. Give --latency, --latency-ms, --macs, --params or --keep, such as "
            "--latency 0.6 for six tenths of the time, or --macs 0.5 for half of the multiply-accumulates."
        )
    if len(plain) > 1:
        raise UserError(
            f"--keep is given twice without a pattern ({plain[0]:g} and {plain[1]:g}). Give one share for all, and "
            "others as --keep 'PATTERN=SHARE'."
        )
    if plain and budget is not None:
        raise UserError(
            f"--keep {plain[0]:g} and {budget} both say how much of the whole network to keep. Give one of them; the "
            f"least share that a budget leaves of any group is --min-keep, and of some layers --keep 'PATTERN=SHARE'."
        )
    if not patterns:
        return plain[0] if plain else None
    return {"*": plain[0], **patterns} if plain else patterns


def read_prune(flags: Namespace) -> PruneOptions:
    """Everything that `compress` asks of the cut."""
    from channelcut.options import PruneOptions

    return PruneOptions(
        keep=read_keep(flags),
        macs=flags.macs,
        latency=flags.latency,
        latency_ms=flags.latency_ms,
        params=flags.params,
        exclude=tuple(flags.exclude),
        min_channels=flags.min_channels,
        min_keep=flags.min_keep,
        align=flags.align if _timed(flags) or flags.target else read_align(flags),
        importance=flags.importance,
        calibration=flags.data,
        loss="library" if flags.labels else None,
        rescale=flags.rescale,
        restore=flags.restore,
        passes=flags.passes,
        drop_unused=flags.drop_unused,
        blocks=flags.blocks,
        deploy=read_deploy(flags),
        prove=flags.prove,
        **read_coupling(flags),
    )


def add_images(parser: ArgumentParser, text: str) -> None:
    """A folder of images, whose use `text` tells, and how they become inputs."""
    group = parser.add_argument_group("images")
    group.add_argument("--data", type=Path, metavar="DIR", help=text)
    group.add_argument(
        "--fit",
        choices=("stretch", "letterbox", "crop"),
        help="how images are made to fit the input; by default this and the four below are as the model's library says "
        "(timm, torchvision), else stretch",
    )
    group.add_argument("--bgr", action="store_true", default=None, help="the network takes BGR instead of RGB")
    group.add_argument("--scale", type=float, metavar="X", help="factor on pixel values (default 1/255)")
    group.add_argument(
        "--mean",
        type=parsing.numbers,
        metavar="X[,X,X]",
        help="subtracted after scaling, one number or three (default 0)",
    )
    group.add_argument(
        "--std",
        type=parsing.numbers,
        metavar="X[,X,X]",
        help="divided by after that, one number or three (default 1)",
    )


def read_images(flags: Namespace) -> dict[str, Any]:
    """The fields of `Preprocessing` that were asked for; raises `UserError` for numbers that cannot work."""
    from channelcut.recovery import Preprocessing

    names = ("fit", "bgr", "scale", "mean", "std")
    asked = {name: value for name in names if (value := getattr(flags, name)) is not None}
    Preprocessing(**asked)
    return asked


def add_workers(group: Any, what: str) -> None:
    """Processes that share the work, and `what` they do at once."""
    group.add_argument(
        "--workers",
        type=parsing.positive,
        metavar="N",
        help=f"{what}, through Ray (default: in this one alone); each needs cores, or a device, of its own",
    )
    group.add_argument(
        "--ray-address", metavar="ADDRESS", help="of a running Ray cluster, for the workers (default this machine)"
    )


def add_output(parser: ArgumentParser, what: str, default: str) -> None:
    """The one file that the command writes; `what` it is, and its `default` in words."""
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, metavar="FILE", help=f"{what} to write (default {default})")
    group.add_argument("--force", action="store_true", help="replace an existing file")


def add_result(parser: ArgumentParser) -> None:
    """A result folder."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a result folder of compress")
