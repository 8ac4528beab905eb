"""A client of the service, for stages: what it answers, and whether it is our service at all."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit

import requests

from tasks.errors import ModelError, SettingsError, UnavailableError
from tasks.serving.answers import WORKER_HEADER

SERVICE = "vision-mlops"
SECONDS = 30.0
CONNECTIONS = 16  # for each worker of a server, at most, until all are found


def replicas(url: str, api_key: str | None = None) -> list[ServiceClient]:
    """Return a client for every server behind a name: a Compose service or a headless one of Kubernetes has several.

    A TLS certificate is for the name, so https is asked by name, and so is a name with a single address.

    Raises:
        UnavailableError: the name has no address.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnavailableError(f"SERVING_URL={url}: {host!r} has no address ({error}); correct it") from error
    addresses = sorted({str(entry[4][0]) for entry in found})
    if parts.scheme == "https" or len(addresses) == 1:
        return [ServiceClient(url, api_key)]
    return [ServiceClient(f"http://{address}:{port}{parts.path}", api_key, parts.netloc) for address in addresses]


def is_loopback(url: str) -> bool:
    """Tell whether a URL names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ServiceClient:
    """Asks the service at a URL."""

    def __init__(self, url: str, api_key: str | None = None, host: str | None = None) -> None:
        """Take the URL, the key if the service needs one, and the Host header if the URL has an IP address instead.

        Raises:
            SettingsError: the URL is not an http(s) address.
        """
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise SettingsError(f"SERVING_URL={url!r} is not an address; give http://HOST:PORT")
        self.url = url.rstrip("/")
        self._given = (url, api_key, host)
        self._session = requests.Session()
        self._worker: str | None = None
        """Who gave the last prediction."""
        # A proxy can reach neither this machine's own loopback nor one replica behind a name.
        self._session.trust_env = not is_loopback(url) and host is None
        if api_key is not None:
            self._session.headers["Authorization"] = f"Bearer {api_key}"
        if host is not None:
            self._session.headers["Host"] = host

    def info(self) -> dict[str, Any] | None:
        """Return what the service says about itself; None when nothing answers (yet).

        Raises:
            SettingsError: another program answers, or the service refuses the key.
        """
        try:
            response = self._session.post(f"{self.url}/get_model_info", timeout=SECONDS)
        except requests.RequestException as error:
            if isinstance(error, requests.ConnectionError | requests.Timeout) and not _answered(error):
                return None
            raise self._foreign(type(error).__name__) from error
        if response.status_code in {502, 503, 504}:
            return None  # from a proxy in front of a service that is not up
        if response.status_code == 401:
            raise SettingsError(f"the service at {self.url} refuses the key; give both the same SERVING_API_KEY")
        try:
            answer = response.json()
        except requests.JSONDecodeError as error:
            raise self._foreign(f"HTTP {response.status_code}, no JSON") from error
        if not isinstance(answer, dict) or answer.get("service") != SERVICE:
            raise self._foreign(f"HTTP {response.status_code}")
        return answer

    def refresh(self) -> None:
        """Ask the service to check now which version it should serve; one that does not answer will check by itself."""
        with contextlib.suppress(requests.RequestException):
            self._session.post(f"{self.url}/refresh", timeout=SECONDS)

    def predict(self, name: str, image: bytes) -> dict[str, Any]:
        """Return the answer for one PNG image.

        Raises:
            ModelError: the service refuses the image.
            UnavailableError: it no longer answers, or is busy.
        """
        try:
            response = self._session.post(
                f"{self.url}/predict_image", files={"image": (f"{name}.png", image, "image/png")}, timeout=SECONDS
            )
        except requests.RequestException as error:
            raise UnavailableError(f"the service at {self.url} no longer answers ({type(error).__name__})") from error
        if response.status_code in {429, 502, 503, 504}:
            raise UnavailableError(f"the service at {self.url} is busy or not reachable (HTTP {response.status_code})")
        if response.status_code != 200:
            raise ModelError(
                f"the service at {self.url} refuses reference image {name!r}: "
                f"HTTP {response.status_code} {response.text[:300]}; see its log"
            )
        self._worker = response.headers.get(WORKER_HEADER)
        answer: dict[str, Any] = response.json()
        return answer

    def of_each_worker(self, count: int, name: str, image: bytes) -> list[ServiceClient]:
        """Return a client for each worker of this server, with a connection to it that stays open.

        A server gives a new connection to the worker that has the fewest, so that a few connections reach all of them.
        Behind a proxy, which has connections of its own, some may not be reached.

        Args:
            count: how many workers it has.
            name: of an image to ask with.
            image: a PNG file.

        Raises:
            ModelError: the service refuses the image.
            UnavailableError: it no longer answers, or is busy.
        """
        if count == 1:
            return [self]
        found: dict[str | None, ServiceClient] = {}
        opened: list[
            ServiceClient
        ] = []  # those to a worker that was found before stay open too, or the next would go there again
        while len(found) < count and len(opened) < CONNECTIONS * count:
            client = ServiceClient(*self._given)
            opened.append(client)
            client.predict(name, image)
            found.setdefault(client._worker, client)
        return list(found.values())

    def _foreign(self, what: str) -> SettingsError:
        return SettingsError(
            f"SERVING_URL={self.url} is answered by another program ({what}); stop that program, "
            "or set SERVING_URL to a free port"
        )


def _answered(error: requests.RequestException) -> bool:
    """Tell whether something answered, but not in HTTP."""
    return "BadStatusLine" in str(error) or "InvalidHeader" in str(error)
