"""MONAI: networks for medical images, in two or three dimensions and with few channels."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.catalogue import Example
from benchmarks.zoo.packages.recipe import Recipe

DISTRIBUTION = "monai"
NETS = "monai.networks.nets"
FLAT, VOLUME = ((1, 1, 64, 64),), ((1, 1, 32, 32, 32),)
IN_OUT: dict[str, Any] = {"in_channels": 1, "out_channels": 2}
STAGES: dict[str, Any] = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)}


def net(name: str, shapes: Any = FLAT, **options: Any) -> Recipe:
    """A network of `monai.networks.nets`."""
    return Recipe(f"{NETS}:{name}", options, shapes)


RECIPES: dict[str, Recipe] = {
    "UNet": net("UNet", spatial_dims=2, **IN_OUT, **STAGES, num_res_units=2),
    "UNet-3d": net("UNet", VOLUME, spatial_dims=3, **IN_OUT, **STAGES, num_res_units=2),
    "UNet-batch": net("UNet", spatial_dims=2, **IN_OUT, **STAGES, num_res_units=2, norm="batch"),
    "UNet-group": net("UNet", spatial_dims=2, **IN_OUT, **STAGES, norm=("group", {"num_groups": 4})),
    "AttentionUnet": net("AttentionUnet", spatial_dims=2, **IN_OUT, **STAGES),
    "AttentionUnet-3d": net("AttentionUnet", VOLUME, spatial_dims=3, **IN_OUT, **STAGES),
    "BasicUNet": net("BasicUNet", spatial_dims=2, **IN_OUT),
    "BasicUNet-3d": net("BasicUNet", VOLUME, spatial_dims=3, **IN_OUT),
    "BasicUNetPlusPlus": net("BasicUNetPlusPlus", spatial_dims=2, **IN_OUT),
    "DynUNet": net(
        "DynUNet",
        spatial_dims=2,
        **IN_OUT,
        kernel_size=[3] * 4,
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2, 2, 2],
        res_block=True,
    ),
    "DynUNet-3d": net(
        "DynUNet",
        VOLUME,
        spatial_dims=3,
        **IN_OUT,
        kernel_size=[3] * 4,
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2, 2, 2],
        filters=[16, 32, 64, 96],
    ),
    "SegResNet": net("SegResNet", spatial_dims=2, **IN_OUT, init_filters=16),
    "SegResNet-3d": net("SegResNet", VOLUME, spatial_dims=3, **IN_OUT),
    "SegResNetDS": net("SegResNetDS", spatial_dims=2, **IN_OUT),
    "SegResNetDS-3d": net("SegResNetDS", VOLUME, spatial_dims=3, **IN_OUT, init_filters=16),
    "SegResNetVAE": net("SegResNetVAE", spatial_dims=2, **IN_OUT, input_image_size=(64, 64)),
    "VNet": net("VNet", spatial_dims=2, **IN_OUT),
    "VNet-3d": net("VNet", VOLUME, spatial_dims=3, **IN_OUT),
    "HighResNet": net("HighResNet", spatial_dims=2, **IN_OUT),
    "HighResNet-3d": net("HighResNet", VOLUME, spatial_dims=3, **IN_OUT),
    "FlexibleUNet": net("FlexibleUNet", spatial_dims=2, in_channels=1, out_channels=2, backbone="efficientnet-b0"),
    "AHNet": net(
        "AHNet", ((1, 1, 128, 128),), spatial_dims=2, in_channels=1, out_channels=2, upsample_mode="transpose"
    ),
    "UNETR": net("UNETR", in_channels=1, out_channels=2, img_size=64, spatial_dims=2, hidden_size=96, num_heads=4),
    "SwinUNETR": net("SwinUNETR", in_channels=1, out_channels=2, spatial_dims=2),
    "MedNeXt": net("MedNeXt", VOLUME, spatial_dims=3, in_channels=1, out_channels=2, init_filters=16),
    "DenseNet121": net("DenseNet121", spatial_dims=2, **IN_OUT),
    "DenseNet121-3d": net("DenseNet121", ((1, 1, 64, 64, 64),), spatial_dims=3, **IN_OUT),
    "EfficientNetBN": net(
        "EfficientNetBN", model_name="efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1, num_classes=2
    ),
    "SEResNet50": net("SEResNet50", spatial_dims=2, in_channels=1, num_classes=2),
    "SEResNext50": net("SEResNext50", spatial_dims=2, in_channels=1, num_classes=2),
    "resnet18-3d": net("resnet18", VOLUME, spatial_dims=3, n_input_channels=1, num_classes=2),
    "resnet50": net("resnet50", spatial_dims=2, n_input_channels=1, num_classes=2),
    "HoVerNet": net("HoVerNet", ((1, 3, 256, 256),), out_classes=5),
    "Quicknat": net("Quicknat", ((1, 1, 64, 64),)),
    "ViT": net(
        "ViT",
        in_channels=1,
        img_size=(64, 64),
        patch_size=(16, 16),
        hidden_size=96,
        mlp_dim=192,
        num_layers=2,
        num_heads=4,
        classification=True,
        spatial_dims=2,
    ),
    "Classifier": net("Classifier", in_shape=(1, 64, 64), classes=5, channels=(16, 32, 64), strides=(2, 2, 2)),
    "Regressor": net("Regressor", in_shape=(1, 64, 64), out_shape=(4,), channels=(16, 32, 64), strides=(2, 2, 2)),
    "Discriminator": net("Discriminator", in_shape=(1, 64, 64), channels=(16, 32, 64), strides=(2, 2, 2)),
    "Critic": net("Critic", in_shape=(1, 64, 64), channels=(16, 32, 64), strides=(2, 2, 2)),
    "Generator": net(
        "Generator", ((2, 12),), latent_shape=(12,), start_shape=(32, 8, 8), channels=(32, 16, 1), strides=(2, 2, 2)
    ),
    "AutoEncoder": net("AutoEncoder", spatial_dims=2, **IN_OUT, channels=(16, 32, 64), strides=(2, 2, 2)),
    "AutoencoderKL": net(
        "AutoencoderKL",
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        num_res_blocks=(1, 1),
        channels=(32, 64),
        attention_levels=(False, True),
        latent_channels=4,
        norm_num_groups=8,
    ),
    "PatchDiscriminator": net("PatchDiscriminator", spatial_dims=2, channels=16, in_channels=1, num_layers_d=3),
    "DiffusionModelUNet": net(
        "DiffusionModelUNet",
        ((1, 1, 32, 32), (1,)),
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(32, 64),
        attention_levels=(False, True),
        num_head_channels=16,
        num_res_blocks=1,
        norm_num_groups=8,
    ),
    "RegUNet": net("RegUNet", spatial_dims=2, in_channels=1, num_channel_initial=16, depth=3, out_channels=2),
    "LocalNet": net(
        "LocalNet", spatial_dims=2, in_channels=1, num_channel_initial=16, extract_levels=(0, 1, 2), out_channels=2
    ),
    "VoxelMorphUNet": net(
        "VoxelMorphUNet",
        ((1, 2, 64, 64),),
        spatial_dims=2,
        in_channels=2,
        unet_out_channels=16,
        channels=(16, 32, 32, 32, 32, 32),
        final_conv_channels=(16, 16),
    ),
}


def names() -> list[str]:
    """The recipes; most networks of the library have no default widths."""
    return list(RECIPES)


def example(name: str) -> Example:
    """One network with random weights and one image or volume."""
    return RECIPES[name].example()
