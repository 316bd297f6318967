"""Detectors and segmenters of transformers, from small random configurations: nothing comes from the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.zoo.catalogue import Example

SIDE = 128
STAGES = ("stage1", "stage2", "stage3", "stage4")
ATTENTION = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
}
DETR = {**ATTENTION, "d_model": 64, "num_queries": 12}
HYBRID = {
    **ATTENTION,
    "d_model": 64,
    "num_queries": 12,
    "encoder_hidden_dim": 64,
    "encoder_in_channels": [32, 48, 64],
    "decoder_in_channels": [64, 64, 64],
    "num_denoising": 0,
    "freeze_backbone_batch_norms": False,
}
MASKED = {"num_labels": 6, "num_queries": 12}


@dataclass(frozen=True)
class Recipe:
    """How to make one model: `auto` is the task, `config` a configuration's class, `options` its arguments."""

    task: str
    config: str
    options: Callable[[], dict[str, Any]]


def resnet(**options: Any) -> Any:
    """A small ResNet as a backbone."""
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=16, hidden_sizes=[24, 32, 48, 64], depths=[1, 1, 1, 1], out_features=[*STAGES], **options
    )


def rt_detr_resnet() -> Any:
    """The ResNet variant of RT-DETR, three stages out."""
    from transformers import RTDetrResNetConfig

    return RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=[*STAGES[1:]],
    )


def hgnet() -> Any:
    """The backbone of D-FINE, three stages out."""
    from transformers import HGNetV2Config

    return HGNetV2Config(
        embedding_size=16,
        hidden_sizes=[24, 32, 48, 64],  # has to repeat stage_out_channels
        stem_channels=[3, 8, 16],
        stage_in_channels=[16, 24, 32, 48],
        stage_mid_channels=[8, 12, 16, 24],
        stage_out_channels=[24, 32, 48, 64],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        out_features=[*STAGES[1:]],
    )


def convnext() -> Any:
    """A small ConvNeXt as a backbone."""
    from transformers import ConvNextConfig

    return ConvNextConfig(hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], out_features=[*STAGES])


def swin() -> Any:
    """A small Swin as a backbone."""
    from transformers import SwinConfig

    return SwinConfig(
        image_size=SIDE,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 4, 4],
        window_size=4,
        out_features=[*STAGES],
    )


def maskformer() -> dict[str, Any]:
    """MaskFormer's decoder is a DETR's."""
    from transformers import DetrConfig

    decoder = DetrConfig(backbone_config=resnet(), **DETR)
    return {"backbone_config": resnet(), "decoder_config": decoder, "fpn_feature_size": 32, "mask_feature_size": 32}


def mask2former(backbone: Any) -> dict[str, Any]:
    """A pixel decoder with deformable attention."""
    return {
        "backbone_config": backbone,
        "feature_size": 32,
        "mask_feature_size": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 48,
        "dim_feedforward": 48,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "num_attention_heads": 4,
        **MASKED,
    }


def upernet(backbone: Any, channels: int) -> dict[str, Any]:
    """UperNet's two heads over a backbone."""
    return {
        "backbone_config": backbone,
        "hidden_size": 32,
        "auxiliary_in_channels": channels,
        "auxiliary_channels": 16,
        "num_labels": 6,
    }


VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "image_size": SIDE}
DETECT, SEGMENT, UNIVERSAL = "ObjectDetection", "SemanticSegmentation", "UniversalSegmentation"
RECIPES: dict[str, Recipe] = {
    "detr": Recipe(DETECT, "DetrConfig", lambda: {"backbone_config": resnet(), **DETR}),
    "detr-segmentation": Recipe("ImageSegmentation", "DetrConfig", lambda: {"backbone_config": resnet(), **DETR}),
    "conditional-detr": Recipe(DETECT, "ConditionalDetrConfig", lambda: {"backbone_config": resnet(), **DETR}),
    "deformable-detr": Recipe(DETECT, "DeformableDetrConfig", lambda: {"backbone_config": resnet(), **DETR}),
    "deformable-detr-two-stage": Recipe(
        DETECT,
        "DeformableDetrConfig",
        lambda: {"backbone_config": resnet(), **DETR, "two_stage": True, "with_box_refine": True},
    ),
    "dab-detr": Recipe(
        DETECT,
        "DabDetrConfig",
        lambda: {"backbone_config": resnet(), **ATTENTION, "hidden_size": 64, "num_queries": 12},
    ),
    "table-transformer": Recipe(DETECT, "TableTransformerConfig", lambda: {"backbone_config": resnet(), **DETR}),
    "rt-detr": Recipe(DETECT, "RTDetrConfig", lambda: {"backbone_config": rt_detr_resnet(), **HYBRID}),
    "rt-detr-v2": Recipe(DETECT, "RTDetrV2Config", lambda: {"backbone_config": rt_detr_resnet(), **HYBRID}),
    "d-fine": Recipe(DETECT, "DFineConfig", lambda: {"backbone_config": hgnet(), **HYBRID}),
    "deimv2": Recipe(DETECT, "Deimv2Config", lambda: {"backbone_config": hgnet(), **HYBRID}),
    "yolos": Recipe(DETECT, "YolosConfig", lambda: {**VIT, "image_size": [SIDE, SIDE], "num_detection_tokens": 12}),
    "maskformer-resnet": Recipe("InstanceSegmentation", "MaskFormerConfig", lambda: {**maskformer(), "num_labels": 6}),
    "mask2former-resnet": Recipe(UNIVERSAL, "Mask2FormerConfig", lambda: mask2former(resnet())),
    "mask2former-swin": Recipe(UNIVERSAL, "Mask2FormerConfig", lambda: mask2former(swin())),
    "upernet-resnet": Recipe(SEGMENT, "UperNetConfig", lambda: upernet(resnet(), 48)),
    "upernet-convnext": Recipe(SEGMENT, "UperNetConfig", lambda: upernet(convnext(), 32)),
    "upernet-swin": Recipe(SEGMENT, "UperNetConfig", lambda: upernet(swin(), 64)),
    "segformer": Recipe(
        SEGMENT,
        "SegformerConfig",
        lambda: {
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
            "decoder_hidden_size": 32,
            "num_labels": 6,
        },
    ),
    "mobilenet-v2-segmentation": Recipe(
        SEGMENT, "MobileNetV2Config", lambda: {"depth_multiplier": 0.5, "num_labels": 6}
    ),
    "mobilevit-segmentation": Recipe(
        SEGMENT,
        "MobileViTConfig",
        lambda: {
            "hidden_sizes": [32, 40, 48],
            "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
            "aspp_out_channels": 32,
            "num_labels": 6,
        },
    ),
    "mobilevitv2-segmentation": Recipe(
        SEGMENT,
        "MobileViTV2Config",
        lambda: {"width_multiplier": 0.25, "base_attn_unit_dims": [64, 96, 128], "num_labels": 6},
    ),
    "beit-segmentation": Recipe(
        SEGMENT, "BeitConfig", lambda: {**VIT, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "num_labels": 6}
    ),
}


def names() -> list[str]:
    """The recipes; the library cannot be asked, because its default configurations are the full-sized networks."""
    return list(RECIPES)


def example(name: str) -> Example:
    """A small model with random weights; the input is an image that the library's processor would have resized."""
    import transformers

    recipe = RECIPES[name]
    config = getattr(transformers, recipe.config)(**recipe.options())
    factory = getattr(transformers, f"AutoModelFor{recipe.task}")
    return Example(factory.from_config(config).eval(), {"pixel_values": torch.rand(1, 3, SIDE, SIDE)})
