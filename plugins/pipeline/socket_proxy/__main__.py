"""`python -m pipeline.socket_proxy`: the service docker-socket-proxy of the stack."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from pipeline.operator.job import image_of
from pipeline.socket_proxy.calls import Allowed
from pipeline.socket_proxy.engine import Engine
from pipeline.socket_proxy.server import CONNECTIONS, SocketProxy
from pipeline.socket_proxy.wire import LARGEST_HEAD
from tasks.contract.stages import STAGES
from tasks.errors import SettingsError
from tasks.settings import Settings, load_settings

log = logging.getLogger("pipeline.socket_proxy")


def allowed_by(settings: Settings) -> Allowed:
    """Return what the operator works with under these settings."""
    images = {stage: image_of(stage, settings) for stage in STAGES}
    return Allowed(images, settings.pipeline_docker_network, tuple(settings.source_roots))


async def run(host: str, port: int, socket: str, allowed: Allowed) -> None:
    """Serve until no engine has answered for two minutes."""
    away = asyncio.Event()
    proxy = SocketProxy(Engine(socket, away.set), allowed)
    server = await asyncio.start_server(proxy.serve, host, port, limit=LARGEST_HEAD, backlog=CONNECTIONS)
    roots = ", ".join(allowed.roots) or "none"
    log.info("%d images, network %s, folders that may be mounted: %s", len(allowed.images), allowed.network, roots)
    async with server:
        await away.wait()


def main() -> None:
    """Read the settings and serve."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.socket_proxy", description=__doc__)
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104  # of a closed network
    parser.add_argument("--port", type=int, default=2375)
    parser.add_argument("--socket", default="/var/run/docker.sock", help="socket of the Docker engine")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        allowed = allowed_by(load_settings())
    except SettingsError as error:
        sys.exit(f"socket proxy: {error}")
    asyncio.run(run(asked.host, asked.port, asked.socket, allowed))
    sys.exit(1)


if __name__ == "__main__":
    main()
