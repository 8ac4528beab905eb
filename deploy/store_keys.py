"""A key for each purpose in the stack's own store, so that no program but the store itself needs the key of its root.

`make up` makes them with the store's own tool, in the store's container, tries each key on each place of the bucket,
and only then writes them to `.env`. Where that fails, every program goes on with S3_ACCESS_KEY, and one line says why.
Keys of a store outside the stack are made there (docs/how-to/containers.md). Standard library only.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from deploy import engine
from deploy.backup_stack import ComposeStack, last_line
from deploy.env_file import read
from deploy.errors import CONFIG, UNAVAILABLE, DeployError
from deploy.setup_env import STORE_KEYS
from deploy.store_policies import PURPOSES, VARIABLES, bucket_policy, user_name, user_policy
from tasks.files import replacing

CLIENT = Path(__file__).resolve().with_name("store_keys_client.py")
SCRIPT = Path(__file__).resolve().with_name("store_users.sh")
CEPH = "ceph"


class StoreKeysError(DeployError):
    """Why the store has no keys per purpose; one line."""


def ensure(env_file: Path, values: Mapping[str, str]) -> None:
    """Have the stack's own store know the keys per purpose of `.env`; make them where there are none yet.

    Args:
        env_file: `.env` of the stack; new keys are written to it.
        values: its variables as Compose sees them.

    Raises:
        StoreKeysError: the store cannot make such keys, or one of them opens more or less than its own place.
    """
    own = {name: values.get(name, "") for name in VARIABLES}
    given = all(own.values())
    if any(own.values()) and not given:
        empty = sorted(name for name, value in own.items() if not value)
        raise StoreKeysError(f"{', '.join(empty)} empty in {env_file}; set all keys of purposes, or none", CONFIG)
    if given and not _wrong(env_file, own):
        return
    wanted = own if given else {name: make() for name, make in STORE_KEYS.items()}
    bucket = values.get("S3_BUCKET") or "mlflow"
    kind, _, owner = _in_store(env_file, "make", _lines(wanted, bucket)).partition(" ")
    if wrong := _wrong(env_file, wanted, patient=True, policy=bucket_policy(bucket, owner) if kind == CEPH else None):
        raise StoreKeysError(wrong, UNAVAILABLE)
    if not given:
        write(env_file, wanted)


def forget_old(env_file: Path) -> None:
    """Remove the keys of purposes that are no longer in `.env` from the stack's own store.

    Raises:
        StoreKeysError: the store could not.
    """
    values = read(env_file)
    if not values.get("S3_ENDPOINT_URL") and all(values.get(name) for name in VARIABLES):
        _in_store(env_file, "forget", _lines(values, values.get("S3_BUCKET") or "mlflow"))


def write(env_file: Path, keys: Mapping[str, str]) -> None:
    """Put the keys into `.env`, in place of the lines that name them or at its end."""
    missing = dict(keys)
    lines = []
    for line in env_file.read_text(encoding="utf-8").splitlines():
        name = line.partition("=")[0].strip()
        lines.append(f"{name}={missing.pop(name)}" if name in missing else line)
    lines += [f"{name}={value}" for name, value in missing.items()]
    with replacing(env_file) as file:
        file.write(("\n".join(lines) + "\n").encode())


def _lines(keys: Mapping[str, str], bucket: str) -> str:
    """Return a line for each purpose: its user, access key, secret key and policy."""
    rows = [
        (user_name(one), keys[one.access_key], keys[one.secret_key], json.dumps(user_policy(one, bucket)))
        for one in PURPOSES
    ]
    return "".join(f"{' '.join(row)}\n" for row in rows)


def _in_store(env_file: Path, action: str, text: str) -> str:
    """Run `store_users.sh` in the store's container and return what it printed."""
    command = ("exec", "--no-TTY", "s3", "sh", "-c", SCRIPT.read_text(encoding="utf-8"), "sh", action)
    return _output(engine.compose(engine.STATE, *command, env_file=env_file), text)


def _wrong(
    env_file: Path, keys: Mapping[str, str], *, patient: bool = False, policy: Mapping[str, object] | None = None
) -> str:
    """Return what is wrong with the keys, tried on the real store; empty if each opens its own place and no other."""
    tried = [
        {"purpose": one.name, "prefix": one.prefix, "keys": [keys[one.access_key], keys[one.secret_key]]}
        for one in PURPOSES
    ]
    command = ComposeStack(env_file).program(CLIENT)
    return _output(command, json.dumps({"purposes": tried, "policy": policy, "patient": patient}))


def _output(command: list[str], text: str) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True)  # noqa: S603  # compose, ours
    except OSError as error:
        raise StoreKeysError(str(error), UNAVAILABLE) from None
    if done.returncode != 0:
        raise StoreKeysError(last_line((done.stdout + done.stderr).encode()), UNAVAILABLE)
    return done.stdout.strip()
