"""segmentation-models-pytorch: every decoder over three encoders, U-Net over one encoder of every family."""

from __future__ import annotations

import torch

from benchmarks.zoo.catalogue import Example

DISTRIBUTION = "segmentation-models-pytorch"
SIDE = 128
DECODERS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet")
BACKBONES = ("resnet18", "mobilenet_v2", "efficientnet-b0")
FAMILIES = (
    "densenet121",
    "dpn68",
    "inceptionv4",
    "mit_b0",
    "mobileone_s0",
    "resnext50_32x4d",
    "se_resnext50_32x4d",
    "timm-gernet_s",
    "timm-regnetx_002",
    "timm-res2net50_26w_4s",
    "timm-resnest14d",
    "timm-skresnet18",
    "tu-convnext_atto",
    "tu-ghostnet_100",
    "tu-hrnet_w18_small",
    "tu-mobilenetv3_small_100",
    "vgg11_bn",
    "xception",
)
OPTIONS = {"scse": {"decoder_attention_type": "scse"}}


def names() -> list[str]:
    """Decoder and encoder, and what else is set."""
    pairs = [f"{decoder}-{backbone}" for decoder in DECODERS for backbone in BACKBONES]
    return [*pairs, *(f"Unet-{family}" for family in FAMILIES), "Unet-resnet18+scse", "Segformer-mit_b0", DPT]


DPT = "DPT-tu-vit_tiny_patch16_224"


def example(name: str) -> Example:
    """A network of two classes, with statistics in every norm."""
    import segmentation_models_pytorch as smp

    decoder, rest = name.split("-", 1)
    encoder, _, option = rest.partition("+")
    given = dict(OPTIONS.get(option, {}))
    side = 224 if name == DPT else SIDE
    model = getattr(smp, decoder)(encoder_name=encoder, encoder_weights=None, classes=2, **given)
    return Example(model.eval(), (torch.rand(1, 3, side, side),))
