"""The flags of a recovery."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from channelcut.cli import parsing
from channelcut.core.errors import UserError

if TYPE_CHECKING:
    from channelcut.recovery.distil import RecoverOptions

_TRAINING = ("batch", "learning_rate", "task", "batch_norm", "augment", "patience", "device", "seed", "init", "rewind")


def add(parser: ArgumentParser) -> None:
    """How the cut is trained, with the original as its teacher."""
    group = parser.add_argument_group("recovery (the original teaches the cut; labels join in where there are any)")
    group.add_argument(
        "--recover",
        type=parsing.positive,
        default=0,
        metavar="EPOCHS",
        help="train for so many epochs on the images of --data (with the labels of a data.yaml), or on batches() "
        "beside a factory with its loss(); a run that was killed goes on where it was when it is started again "
        "(default: no training)",
    )
    group.add_argument(
        "--rounds",
        type=parsing.positive,
        metavar="K",
        help="reach the budget in so many rounds of cut and recovery, EPOCHS in each (default 1)",
    )
    group.add_argument(
        "--sparsify",
        type=parsing.positive,
        default=0,
        metavar="EPOCHS",
        help="train for so many epochs before the cut, on the same data, with a growing penalty on the channels that "
        "are to go (default: none)",
    )
    add_training(group)


def add_training(group: Any) -> None:
    """How the training goes."""
    group.add_argument(
        "--batch",
        type=parsing.positive,
        metavar="N",
        help="images in a step (default 32; 8 for detectors and the like)",
    )
    group.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help="highest rate of AdamW (default: the best of four)",
    )
    group.add_argument(
        "--task",
        type=float,
        metavar="X",
        help="weight of the loss on labels: Ultralytics' own on those of a data.yaml's train split, or loss() beside a "
        "factory (default 1; 0: no labels)",
    )
    group.add_argument(
        "--batch-norm",
        choices=("auto", "frozen", "batch", "recalibrate"),
        help="statistics stay (frozen), are those of batches, or are measured anew at the end (default auto: of "
        "batches, where 32 inputs or more are computed at once, else, and of detectors and the like, frozen)",
    )
    group.add_argument(
        "--augment",
        type=parsing.augmentation,
        metavar="A,B",
        help="what is done to every image, for original and cut alike: some of flip, scale, colour and mosaic, or none "
        "(default: the first three, of detectors mosaic too; with labels of a loss() of yours colour alone)",
    )
    group.add_argument(
        "--patience",
        type=parsing.positive,
        metavar="N",
        help="stop after so many epochs without a gain on images that are held back (default: never)",
    )
    group.add_argument(
        "--device", metavar="NAME", help="where to train, such as cuda:1 (default: the GPU where there is one)"
    )
    group.add_argument(
        "--seed", type=parsing.whole, metavar="N", help="of order, augmentation and what is drawn (default 0)"
    )
    group.add_argument(
        "--init",
        choices=("cut", "scratch", "rewind"),
        help="start from the weights of the cut (default), from drawn ones, or from early ones (--rewind), to compare",
    )
    group.add_argument(
        "--rewind", type=Path, metavar="FILE", help="the original's state dict from early in its training"
    )


def read(flags: Namespace) -> dict[str, Any]:
    """The fields `sparsify`, `recover`, `rounds` and `recovery` of `CompressOptions`.

    Raises:
        UserError: a flag of a recovery without --recover, or a value that makes no sense.
    """
    asked = [name for name in ("rounds", *_TRAINING) if getattr(flags, name) is not None]
    if asked and not (flags.recover or (flags.sparsify and "rounds" not in asked)):
        raise UserError(
            f"--{asked[0].replace('_', '-')} says how a recovery trains, and none is asked for. Add --recover EPOCHS."
        )
    return {
        "sparsify": flags.sparsify,
        "recover": flags.recover,
        "rounds": flags.rounds or 1,
        "recovery": read_training(flags),
    }


def read_training(flags: Namespace, **more: Any) -> RecoverOptions:
    """How the training goes; `more` are further fields of `RecoverOptions`.

    Raises:
        UserError: a value makes no sense, or the file of early weights cannot be read.
    """
    from channelcut.recovery.distil import RecoverOptions
    from channelcut.sources.weights import read_state

    asked = {name: value for name in _TRAINING if (value := getattr(flags, name)) is not None}
    if (asked.get("init") == "rewind") != ("rewind" in asked):
        raise UserError(
            "--init rewind and --rewind FILE go together, and one of them is missing. FILE is the state dict of the "
            "original network as it was early in its training: --init rewind --rewind epoch5.pt."
        )
    if "rewind" in asked:
        asked["rewind"] = read_state(asked["rewind"], trust=flags.trust)
    return RecoverOptions(**asked, **more)
