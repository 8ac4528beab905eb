"""Stands in for a worker: carries out orders, or not, as the metadata of the model says.

`fails` and `dies` name the indices of workers that cannot open it, `once` a file that makes this so once only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

given = dict(argument.removeprefix("--").split("=") for argument in sys.argv[1:])
channel, index = Connection(int(given["channel"])), int(given["index"])
log = Path(given["counts"]).with_name(f"orders-{index}")
while True:
    try:
        order = json.loads(channel.recv_bytes())
    except EOFError:
        sys.exit(1)
    with log.open("a") as file:
        file.write(
            " ".join([order["do"], str(order.get("model", {}).get("target", {}).get("version", ""))]).strip() + "\n"
        )
    metadata = order.get("model", {}).get("metadata", {})
    if index in metadata.get("dies", []):
        os.kill(os.getpid(), signal.SIGKILL)
    answer = {"error": "the file is damaged"} if index in metadata.get("fails", []) else {}
    channel.send_bytes(json.dumps(answer).encode())
