"""Fetches pretrained weights from a hub: Hugging Face's, or the one that HF_ENDPOINT names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

from tasks.errors import DataError, PipelineError, SettingsError, UnavailableError
from tasks.files import sha256

FILE = "model.safetensors"
SHA256 = re.compile(r"[0-9a-f]{64}")  # the hub's ETag of a large file; a small one has a digest of Git
FIX = "fetch it on a machine that reaches the hub and give FILE=, or set HF_ENDPOINT to a hub that answers"


def fetch(repository: str, folder: Path) -> tuple[Path, str]:
    """Download the weights of a repository into `folder`, and check them against the digest that the hub states.

    Returns:
        The file, and the commit that it is of.

    Raises:
        DataError: the hub has no such file, or sent another one than it states.
        SettingsError: the hub asks for a token or for agreement.
        UnavailableError: the hub does not answer, or ends its answer too early.
    """
    where = f"{FILE} of {repository} at {constants.ENDPOINT}"
    with _failures_named(where):
        stated = get_hf_file_metadata(hf_hub_url(repository, FILE))  # one request: without a hub it fails at once
        if stated.commit_hash is None:
            raise UnavailableError(f"what answers at {constants.ENDPOINT} is no hub; {FIX}")
        path = Path(hf_hub_download(repository, FILE, revision=stated.commit_hash, local_dir=folder))
    etag, found = stated.etag or "", sha256(path)
    if SHA256.fullmatch(etag) and etag != found:
        raise DataError(f"{where} has SHA-256 {found[:12]}..., the hub states {etag[:12]}...; try again, or give FILE=")
    return path, stated.commit_hash


@contextmanager
def _failures_named(where: str) -> Iterator[None]:
    try:
        yield
    except PipelineError:
        raise
    except errors.GatedRepoError as error:
        raise SettingsError(
            f"{where} is given only to those who agreed to its terms; agree there and set HF_TOKEN, or give FILE="
        ) from error
    except (errors.RemoteEntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise DataError(f"there is no {where}; choose another network, or give FILE=") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in {401, 403}:
            raise SettingsError(f"{where} may not be read (HTTP {status}); check HF_TOKEN, or give FILE=") from error
        raise UnavailableError(f"{where} cannot be fetched (HTTP {status}); {FIX}") from error
    except (httpx2.HTTPError, OSError) as error:  # OSError: an answer that ended early
        raise UnavailableError(f"{where} cannot be fetched ({type(error).__name__}: {error}); {FIX}") from error
