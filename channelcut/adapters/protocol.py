"""The seam between channelcut and the library that a network comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from channelcut.core.deployed import Deploy, Deployed
from channelcut.recovery.distil.losses import Teaching
from channelcut.recovery.images import Preprocessing


class Adapter(Protocol):
    """What differs from library to library: what of a network is deployed, and how."""

    def owns(self, model: nn.Module) -> bool:
        """Whether the network is one of the library's."""

    def preprocessing(self, model: nn.Module) -> Preprocessing | None:
        """How images become inputs of the network; None where the library does not say."""

    def deployed(self, model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy, *, dynamic: bool = False) -> Deployed:
        """The form that runs in production, made of a copy.

        Args:
            model: a trainable network, cut or not.
            inputs: the positional inputs of one forward.
            deploy: what is asked for.
            dynamic: whether the file leaves sizes open.

        Raises:
            UserError: the library deploys no such network, or not with these inputs.
        """

    def store(self, model: nn.Module, folder: Path) -> None:
        """Write the library's own form of a cut network beside the result, where it has one."""

    def undeployed(self, model: nn.Module, deploy: Deploy) -> tuple[str, ...]:
        """The paths of the modules that deployment leaves out."""

    def teaching(self, model: nn.Module) -> Teaching:
        """What helps to teach a cut of the network, see `channelcut.recover`."""

    def is_data_set(self, model: nn.Module, data: Any) -> bool:
        """Whether `data` is a data set of the library's: labelled, with its own way to prepare images."""

    def images(
        self,
        model: nn.Module,
        data: str | Path,
        shape: tuple[int, int, int],
        preprocessing: Preprocessing | None = None,
        limit: int = 256,
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

    def check_data(self, model: nn.Module, data: str | Path) -> None:
        """Look whether `evaluate` can take the network and the data set.

        Raises:
            UserError: it cannot.
        """

    def evaluate(
        self,
        model: nn.Module | str | Path,
        data: str | Path,
        *,
        imgsz: int | tuple[int, int],
        nms: bool | None = None,
        batch: int = 16,
        on_progress: Callable[[int, int], None] | None = None,
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
