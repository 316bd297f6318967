"""spandrel: an architecture of every folder, with the defaults of its class or a lighter configuration."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.catalogue import Example
from benchmarks.zoo.packages.recipe import Recipe

DISTRIBUTION = "spandrel"
COLOUR, GREY = ((1, 3, 32, 32),), ((1, 1, 64, 64),)
LARGE = ((1, 3, 64, 64),)
LIGHT: dict[str, Any] = {"embed_dim": 60, "depths": [2, 2], "num_heads": [6, 6], "window_size": 8, "mlp_ratio": 2}


def arch(name: str, shapes: Any = COLOUR, folder: str | None = None, **options: Any) -> Recipe:
    """The class of an architecture."""
    return Recipe(f"spandrel.architectures.{folder or name}:{name}", options, shapes)


RECIPES: dict[str, Recipe] = {
    "ATD": arch("ATD", embed_dim=48, depths=[2, 2], num_heads=[4, 4], upsampler="pixelshuffledirect", upscale=2),
    "CRAFT": arch("CRAFT", upscale=2),
    "Compact": arch("Compact"),
    "DAT": arch(
        "DAT",
        embed_dim=60,
        depth=[2, 2],
        num_heads=[2, 2],
        split_size=[8, 16],
        upscale=2,
        img_range=1.0,
        upsampler="pixelshuffledirect",
    ),
    "DCTLSA": arch("DCTLSA"),
    "DITN": arch("DITN"),
    "DRCT": arch(
        "DRCT", embed_dim=60, depths=(2, 2), num_heads=(6, 6), window_size=8, gc=16, upscale=2, upsampler="pixelshuffle"
    ),
    "DRUNet": arch("DRUNet", GREY),
    "DnCNN": arch("DnCNN", GREY),
    "ESRGAN": arch("ESRGAN", num_blocks=4),
    "ESRGAN-plus": arch("ESRGAN", num_blocks=4, plus=True),
    "FBCNN": arch("FBCNN", LARGE),
    "FDAT": arch("FDAT", num_groups=2),
    "FFTformer": arch("FFTformer", LARGE, num_blocks=[1, 1, 2], num_refinement_blocks=1),
    "GRL": arch("GRL", LARGE, embed_dim=48, depths=[2, 2], num_heads_window=[2, 2], num_heads_stripe=[2, 2]),
    "HAT": arch(
        "HAT", embed_dim=60, depths=(2, 2), num_heads=(6, 6), window_size=8, upscale=2, upsampler="pixelshuffle"
    ),
    "HVICIDNet": arch("HVICIDNet", LARGE),
    "KBNet_s": arch(
        "KBNet_s", LARGE, folder="KBNet", width=32, middle_blk_num=2, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]
    ),
    "LaMa": arch("LaMa", ((1, 3, 64, 64), (1, 1, 64, 64)), in_nc=4),
    "MixDehazeNet": arch("MixDehazeNet", LARGE),
    "MoESR": arch("MoESR", n_blocks=2),
    "MoSR": arch("MoSR", n_block=6),
    "NAFNet": arch("NAFNet", LARGE, width=32, enc_blk_nums=[1, 1, 1], dec_blk_nums=[1, 1, 1]),
    "OmniSR": arch("OmniSR"),
    "PLKSR": arch("PLKSR", n_blocks=6),
    "RealPLKSR": arch("RealPLKSR", folder="PLKSR", n_blocks=6),
    "RealPLKSR-dysample": arch("RealPLKSR", folder="PLKSR", n_blocks=6, dysample=True),
    "RCAN": arch("RCAN", n_resgroups=2, n_resblocks=4),
    "RGT": arch("RGT", embed_dim=60, depth=[2, 2], num_heads=[2, 2], split_size=[8, 8], upscale=2),
    "RealCUGAN-2x": arch("UpCunet2x", LARGE, folder="RealCUGAN"),
    "RealCUGAN-2x-fast": arch("UpCunet2x_fast", LARGE, folder="RealCUGAN"),
    "RealCUGAN-3x": arch("UpCunet3x", LARGE, folder="RealCUGAN"),
    "RetinexFormer": arch("RetinexFormer", LARGE, stage=1),
    "SAFMN": arch("SAFMN", LARGE, dim=36),
    "SAFMNBCIE": arch("SAFMNBCIE", LARGE, dim=36),
    "SCUNet": arch("SCUNet", LARGE, config=[2] * 7),
    "SPAN": arch("SPAN", num_in_ch=3, num_out_ch=3),
    "SeemoRe": arch("SeemoRe", embedding_dim=36),
    "SwiftSRGAN": arch("SwiftSRGAN"),
    "Swin2SR": arch("Swin2SR", img_size=32, upscale=2, upsampler="pixelshuffledirect", **LIGHT),
    "SwinIR": arch("SwinIR", img_size=32, upscale=2, upsampler="pixelshuffledirect", **LIGHT),
    "Uformer": arch("Uformer", ((1, 3, 128, 128),), img_size=128, embed_dim=16, depths=[1] * 9),
}


def names() -> list[str]:
    """The recipes; some classes have defaults that nobody uses, and some none."""
    return list(RECIPES)


def example(name: str) -> Example:
    """One network with random weights and one small image."""
    return RECIPES[name].example()
