"""Checks that a file holds the weights of a network of timm, and converts other files to safetensors.

The network is built on torch's device `meta`: it has names and shapes, and takes no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models import PretrainedCfg, clean_state_dict

from tasks.errors import DataError, RequestError
from tasks.vision.models import weights

Shapes = Mapping[str, tuple[int, ...]]
COUNTERS = ".num_batches_tracked"  # of batch norm; older files lack them
EXAMPLES = 3


def described(model: str, constructor: str) -> PretrainedCfg | None:
    """Return what timm knows about the weights that a name asks for; None where there are none.

    Raises:
        RequestError: the network has no weights of the name after the point.
    """
    try:
        return timm.get_pretrained_cfg(constructor)
    except RuntimeError as error:
        raise RequestError(f"MODEL={model!r}: {error} `timm.list_pretrained()` lists all names with weights") from error


def require(path: Path, name: str, constructor: str) -> None:
    """Require that a safetensors file holds the weights of a network, for any number of classes.

    Args:
        path: the file.
        name: the user's name for it.
        constructor: the network's name in timm.

    Raises:
        DataError: it is damaged, or its tensors are not the network's.
    """
    found = _shapes(path, name)
    about = described(name, constructor)
    with torch.device("meta"):
        network = timm.create_model(constructor)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    head = about.classifier if about else None
    heads = [head] if isinstance(head, str) else list(head or ())
    wrong = [
        *(f"lacks {key}" for key in expected if key not in found and not key.endswith(COUNTERS)),
        *(f"has {key}, which the network has not" for key in found if key not in expected),
        *(
            f"has {key} of {list(found[key])} instead of {list(shape)}"
            for key, shape in expected.items()
            if key in found and not _same(found[key], shape, any(key.startswith(f"{head}.") for head in heads))
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - EXAMPLES} more" if len(wrong) > EXAMPLES else ""
        raise DataError(
            f"{name} does not hold the weights of {constructor}: it {', '.join(wrong[:EXAMPLES])}{more}; "
            "give the file of this network, or another MODEL="
        )


def convert(path: Path, into: Path) -> None:
    """Write the tensors of a file as safetensors, under the names that timm gives them.

    Raises:
        DataError: it is damaged, holds other objects, or no tensors.
    """
    tensors = clean_state_dict(weights.read(path))
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, into)


def _shapes(path: Path, name: str) -> Shapes:
    """Read names and shapes from the header, which safetensors compares with the length of the file."""
    try:
        with safe_open(path, framework="np") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise DataError(f"{name} is not a whole safetensors file ({error}); fetch it again") from error


def _same(found: tuple[int, ...], expected: tuple[int, ...], is_head: bool) -> bool:
    """Compare two shapes; in the head the number of classes may differ."""
    return found == expected or (is_head and found[1:] == expected[1:] and len(found) == len(expected))
