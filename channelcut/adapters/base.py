"""The seam between channelcut and the library that a network comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core.copies import cloned, private_copy
from channelcut.core.deployed import Deploy, Deployed
from channelcut.core.errors import UserError
from channelcut.core.graph import check_named, is_named, tensor_paths
from channelcut.core.quiet import quietly
from channelcut.core.sensitivity import Weighing
from channelcut.recovery.distil.losses import Teaching
from channelcut.recovery.distil.pool import Labelled
from channelcut.recovery.images import Preprocessing


class Adapter:
    """What differs from library to library. A library's adapter overrides what it knows.

    As it stands, that of the networks of no library that is known here: their forward is what runs, or some of its
    outputs.
    """

    def owns(self, model: nn.Module) -> bool:  # noqa: ARG002  whatever it is
        """Whether the network is one of the library's."""
        return True

    def preprocessing(self, model: nn.Module) -> Preprocessing | None:  # noqa: ARG002  nobody says
        """How images become inputs of the network; None where the library does not say."""
        return None

    def deployed(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        deploy: Deploy,
        *,
        dynamic: bool = False,  # noqa: ARG002  the same module either way
    ) -> Deployed:
        """The form that runs in production, made of a copy. Batch norms may stay: they are folded in the file.

        Args:
            model: a trainable network, cut or not.
            inputs: the positional inputs of one forward.
            deploy: what is asked for.
            dynamic: whether the file leaves sizes open.

        Raises:
            UserError: the library deploys no such network, or not with these inputs.
        """
        refuse_nms(model, deploy)
        return Deployed(_chosen(model, inputs, deploy.outputs) if deploy.outputs else model, inputs)

    def engine_form(self, model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy) -> Deployed | None:  # noqa: ARG002
        """The form that a TensorRT engine is built from, where it is another than `deployed`; else None."""
        return None

    def undeployed(self, model: nn.Module, deploy: Deploy) -> tuple[str, ...]:
        """The paths of the modules that deployment leaves out, as far as the trace does not show them."""
        refuse_nms(model, deploy)
        return ()

    def weighing(self, model: nn.Module, deploy: Deploy) -> Weighing:
        """Every floating output that is read, in units of its own deviation."""
        refuse_nms(model, deploy)
        return Weighing(lambda result: _read(result, deploy.outputs))

    def teaching(self, model: nn.Module) -> Teaching:  # noqa: ARG002  nothing is known of it
        """What helps to teach a cut of the network, see `channelcut.recover`: every output by itself."""
        return Teaching()

    def labelled(
        self,
        model: nn.Module,  # noqa: ARG002
        data: Any,  # noqa: ARG002
        shape: tuple[int, ...],  # noqa: ARG002
        preprocessing: Preprocessing | None = None,  # noqa: ARG002
        epochs: int = 1,  # noqa: ARG002
        *,
        plain: bool = False,  # noqa: ARG002
    ) -> Labelled | None:
        """Labels, as batches that have a task loss, for a recovery and for scores; None where the library has none.

        Args:
            model: the network that takes the inputs.
            data: what was given: a data set of the library's, see `is_data_set`, or anything else.
            shape: (channels, height, width) of its input; () where it takes no image.
            preprocessing: what the caller asks for beside it.
            epochs: of the training, for a loss or an augmentation that changes on the way.
            plain: leave the augmentation out.

        Raises:
            UserError: the data set is missing, or its labels do not fit the network.
        """
        return None

    def check_labels(self, model: nn.Module, data: Any) -> None:
        """Look whether the labels of `data`, where it is a data set of the library's, can teach the network.

        Raises:
            UserError: they cannot, as far as that shows before they are read.
        """

    def store(self, model: nn.Module, folder: Path) -> None:
        """Write the library's own form of a cut network beside the result, where it has one."""

    def is_data_set(self, model: nn.Module, data: Any) -> bool:  # noqa: ARG002  no network has one here
        """Whether `data` is a data set of the library's: labelled, with its own way to prepare images."""
        return False

    def images(
        self,
        model: nn.Module,
        data: str | Path,
        shape: tuple[int, int, int],  # noqa: ARG002
        preprocessing: Preprocessing | None = None,  # noqa: ARG002
        limit: int = 256,  # noqa: ARG002
    ) -> tuple[Tensor, list[str]]:
        """Images of such a data set to calibrate by, prepared as the library does, and the names of broken ones.

        Args:
            model: the network that takes them.
            data: the data set.
            shape: (channels, height, width) of its input.
            preprocessing: what the caller asks for beside it.
            limit: the most images to read.

        Raises:
            UserError: the data set is missing or does not fit, or has a preprocessing of its own that is not this one.
        """
        raise UserError(f"{data} is no data set that is known for {type(model).__name__}. Give a folder of images.")

    def check_data(self, model: nn.Module, data: str | Path) -> None:
        """Look whether `evaluate` can take the network and the data set.

        Raises:
            UserError: it cannot.
        """

    def evaluate(
        self,
        model: nn.Module | str | Path,  # noqa: ARG002
        data: str | Path,  # noqa: ARG002
        *,
        imgsz: int | tuple[int, int],  # noqa: ARG002
        nms: bool | None = None,  # noqa: ARG002
        batch: int = 16,  # noqa: ARG002
        on_progress: Callable[[int, int], None] | None = None,  # noqa: ARG002
    ) -> dict[str, float] | None:
        """The accuracy of a network, or of a file that was written of one; None where the library has no way to tell.

        Args:
            model: a module, which stays as it is, or the path of an ONNX file.
            data: a data set of the library's.
            imgsz: height and width of the input.
            nms: which head, see `core.deployed.Deploy`; a file has its own.
            batch: images in a batch.
            on_progress: called as on_progress(done, total).

        Raises:
            UserError: the data set is missing or does not fit.
        """
        return None


def _read(result: Any, patterns: tuple[str, ...]) -> list[Tensor]:
    """The floating tensors of a result that patterns name; all of them without patterns."""
    found = [(path, tensor) for path, tensor in tensor_paths(result) if tensor.is_floating_point()]
    return [tensor for path, tensor in found if not patterns or is_named(path, patterns)]


def refuse_nms(model: nn.Module, deploy: Deploy) -> None:
    """Refuse a choice that only Ultralytics' detectors have."""
    if deploy.nms is not None:
        raise UserError(
            f"nms={deploy.nms} chooses between the heads of Ultralytics' detectors, and {type(model).__name__} is none "
            "of them. Leave it out; what the forward returns is what the file returns."
        )


def _chosen(model: nn.Module, inputs: tuple[Any, ...], patterns: tuple[str, ...]) -> nn.Module:
    """The network with the outputs that patterns name.

    Raises:
        UserError: one of them names none.
    """
    chosen = _Chosen(model, patterns).eval()
    with torch.no_grad(), quietly():
        check_named([path for path, _ in tensor_paths(chosen.model(*cloned(inputs)))], patterns, "outputs")
    return chosen


class _Chosen(nn.Module):
    """Returns the outputs of a network that patterns name, in order, under their paths."""

    def __init__(self, model: nn.Module, patterns: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.patterns = private_copy(model), patterns

    def forward(self, *inputs: Any) -> dict[str, Tensor]:
        """Run the network."""
        found = tensor_paths(self.model(*inputs))
        return {path: tensor for path, tensor in found if is_named(path, self.patterns)}
