"""`channelcut recover`: a result folder, trained with the original as its teacher."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from channelcut.cli import flags as groups
from channelcut.cli import parsing, recovery_flags

NAME = "recover"
HELP = "Train a result with the original as its teacher; under torchrun in several processes."
EXAMPLES = (
    ("twenty epochs on unlabelled images", "channelcut recover out --data images/ --epochs 20 --out recovered"),
    (
        "on four GPUs",
        "torchrun --nproc-per-node 4 -m channelcut.cli recover out --data images/ --epochs 20 --out recovered",
    ),
)


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    groups.add_result(parser)
    parser.add_argument("--weights", metavar="pretrained|random|FILE", help=f"of the original: {groups.WEIGHTS}")
    parser.add_argument("--trust", action="store_true", help=groups.TRUST)
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=parsing.positive, required=True, metavar="N", help="how often all is seen")
    recovery_flags.add_training(training)
    groups.add_images(
        parser,
        "folder of unlabelled images; of Ultralytics' models also a data.yaml, whose train split is read, with its "
        "labels; by default what batches() beside the factory gives, with its loss()",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, metavar="DIR", help="output folder (default DIR-recovered)")
    output.add_argument("--force", action="store_true", help="replace the output folder when the new one is complete")


def run(flags: Namespace) -> int:
    """Train, write the folder, say how it went; returns 0."""
    from channelcut.cli.console import Bars, console, print_json, printing_to_stderr
    from channelcut.recovering.folder import Folders, recover_folder
    from channelcut.recovery.distil.processes import is_first

    out = flags.out or Path(f"{flags.folder.name}-recovered")
    options = recovery_flags.read_training(flags)
    folders = Folders(flags.folder, out, flags.force, flags.weights, flags.trust)
    quiet = flags.quiet or flags.json or not is_first()
    with Bars(quiet=quiet) as progress, printing_to_stderr():
        found = recover_folder(folders, flags.data, groups.read_images(flags), flags.epochs, options, progress)
    if flags.json and is_first():
        print_json(vars(found))
    elif not quiet:
        console().print(
            f"{out}: {found.epochs} epochs, {found.steps} steps, {'with' if found.labels else 'without'} labels, loss "
            f"on images held back {found.before:.4g} → {found.after:.4g}",
            soft_wrap=True,
        )
        for note in found.notes:
            console().print(note, markup=False, soft_wrap=True)
    return 0
