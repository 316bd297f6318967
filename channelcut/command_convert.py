"""`channelcut convert`: an ONNX file in a lower precision."""

from __future__ import annotations

from argparse import Namespace


def convert(flags: Namespace) -> int:
    """`channelcut convert`."""
    from channelcut.commands import refuse_existing
    from channelcut.console import Bars, console, print_json
    from channelcut.onnx_out.files import load_onnx
    from channelcut.precision.convert import PrecisionOptions, convert_precision
    from channelcut.precision.feeds import image_shape
    from channelcut.recovery.images import Preprocessing, load_images

    refuse_existing(flags.out, flags.force)
    options = PrecisionOptions(budget=flags.budget, method=flags.method, rest=flags.rest, size=(flags.size, flags.size))
    images = None
    broken: list[str] = []
    if flags.data is not None:
        how = Preprocessing(flags.fit, flags.bgr, flags.scale, flags.mean, flags.std)
        shape = image_shape(load_onnx(flags.onnx), options.size)
        loaded, broken = load_images(flags.data, shape, how, limit=flags.images)
        images = loaded.numpy()
    with Bars(quiet=flags.quiet or flags.json) as progress:
        report = convert_precision(flags.onnx, flags.out, flags.precision, images, options, progress)
    if flags.json:
        print_json({**vars(report), "path": report.path.name, "broken_images": broken})
    elif not flags.quiet:
        skipped = f"; {len(broken)} broken images skipped" if broken else ""
        others = f", {len(report.rest_kept)} others in fp32" if report.rest_kept else ""
        console().print(
            f"{report.path}: {report.precision}, {report.lowered} nodes lowered, {len(report.kept)} kept in "
            f"{report.rest}{others}, error of {report.compared} {report.error:.2g} on {report.inputs} (all lowered: "
            f"{report.unrestricted_error:.2g}), "
            f"{report.size_bytes / 2**20:.2f} MiB{skipped}",
            soft_wrap=True,
        )
    return 0
