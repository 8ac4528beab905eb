"""Reads trained weights from a file and fits them to a network. Nothing in a file is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tasks.errors import DataError, ModelError

Kind = Literal["safetensors", "torch", "export"]
"""`export` is a model that this software stored."""
NETWORK = "network."  # prefix of a network's tensors in a `Classifier`
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")  # where training programs keep weights in a file
SAFETENSORS, PICKLES = ".safetensors", (".pt", ".pth", ".bin")
ZIP = b"PK\x03\x04"  # torch.save writes zip files
LARGEST_HEADER = 100_000_000  # bytes; safetensors refuses more
REASON = 200  # characters of an error


def kind(path: Path) -> Kind:
    """Tell by a file's content how its weights are stored; by its suffix where the content does not say.

    Raises:
        DataError: neither says it, or the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read as weights ({error}); give the whole file") from error
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        return "export"
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= LARGEST_HEADER:
        return "safetensors"
    if start.startswith(ZIP) or suffix in PICKLES:
        return "torch"
    if suffix == SAFETENSORS:
        return "safetensors"
    raise DataError(f"{path.name} is not a file of weights; give a .safetensors, .pt, .pth or .bin file")


def read(path: Path) -> dict[str, Tensor]:
    """Read weights by name from a file of any `kind`; from a pickle, tensors only.

    Raises:
        DataError: the file is damaged, of another kind, or a pickle of more than tensors.
    """
    stored_as = kind(path)
    try:
        match stored_as:
            case "safetensors":
                return load_file(path)
            case "export":
                exported = torch.export.load(path).state_dict
                return {name.removeprefix(NETWORK): tensor.detach() for name, tensor in exported.items()}
            case "torch":
                with path.open("rb") as file:  # given a name, torch goes by its suffix
                    state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:REASON]
        raise DataError(f"{path.name} cannot be read as weights ({reason}); give the whole file") from error
    except Exception as error:  # torch.load raises pickle's own errors
        raise DataError(
            f"{path.name} is damaged or holds more than tensors, which could run code when it is opened; "
            "save the state dict alone, or as .safetensors"
        ) from error
    if isinstance(state, Mapping):
        state = next((state[key] for key in NESTED if isinstance(state.get(key), Mapping)), state)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
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
