"""Licences of the data sets that have a name here, as their authors state them."""

from __future__ import annotations

KNOWN = {
    "digits": "CC BY 4.0 (Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI)",
    "fashion_mnist": "MIT (Zalando SE)",
    "cifar10": "none stated by the authors (A. Krizhevsky, V. Nair, G. Hinton)",
    "cifar100": "none stated by the authors (A. Krizhevsky, V. Nair, G. Hinton)",
}
NOT_STATED = "not stated"


def licence_of(dataset: str, given: str | None) -> str:
    """Return what was given as the licence of a data set, else what is known of it."""
    return given or KNOWN.get(dataset, NOT_STATED)
