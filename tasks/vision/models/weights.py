"""Reads trained weights from a file and fits them to a network. Nothing in a file is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tasks.errors import DataError, ModelError

NETWORK = "network."  # prefix of a network's tensors in a `Classifier`


def read(path: Path) -> dict[str, Tensor]:
    """Read weights by name: .safetensors, .pt or .pth (tensors only), or .pt2, a model that this software stored.

    Raises:
        DataError: the file is damaged, of another kind, or a pickle of more than tensors.
    """
    try:
        match path.suffix:
            case ".safetensors":
                return load_file(path)
            case ".pt2":
                state = torch.export.load(path).state_dict
                return {name.removeprefix(NETWORK): tensor.detach() for name, tensor in state.items()}
            case ".pt" | ".pth":
                state = torch.load(path, map_location="cpu", weights_only=True)
                state = state.get("state_dict", state) if isinstance(state, dict) else state
            case _:
                raise DataError(f"{path.name} is not a file of weights; give a .safetensors, .pt or .pth file")
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise DataError(f"{path.name} cannot be read as weights ({error}); give the whole file") from error
    except Exception as error:  # torch.load raises pickle's own errors
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path.name} holds more than tensors, which could run code when it is opened; save the state dict alone, "
            "or as .safetensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path.name} is not a state dict: names with tensors; save model.state_dict()")
    return dict(state)


def fit(
    trained: Mapping[str, Tensor], expected: Mapping[str, Tensor], head: tuple[str, ...], architecture: str
) -> dict[str, Tensor]:
    """Bring trained weights under a network's own names; check that they are that network's.

    Some packages keep a network's tensors in the same order under other names. Shapes are compared by whoever loads the
    result: other numbers of channels or pixels can be fitted.

    Args:
        trained: the weights by name.
        expected: the state dict of the network.
        head: the names in it that depend on the number of classes.
        architecture: the network's name, for errors.

    Raises:
        ModelError: they are the weights of another network.
    """
    body = [name for name in expected if name not in head]
    if not set(body) <= set(trained) and len(trained) == len(expected):
        trained = dict(zip(expected, trained.values(), strict=True))
    missing = [name for name in body if name not in trained]
    if missing:
        raise ModelError(
            f"the weights are not those of {architecture}: {len(missing)} of its {len(body)} tensors are missing, "
            f"{missing[0]!r} first; set model to the network that they were trained as"
        )
    return {name: trained[name] for name in expected if name in trained}
