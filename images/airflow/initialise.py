"""Prepares Airflow's database: tables of this version, roles, pool, the administrator. Runs before everything else.

Safe to repeat, so it runs at every `make up`, also after an upgrade. The administrator's password is set to the one in
`.env`, whatever it was before.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from pipeline.dag_parts.pool import make_pools

ADMINISTRATOR = "admin"


def migrate() -> None:
    """Migrate Airflow's and the auth manager's tables to this version; exits when that fails."""
    done = subprocess.run(["airflow", "db", "migrate"], capture_output=True, text=True)  # noqa: S607
    if done.returncode == 0:
        return
    causes = re.findall(r"^[\w.]+Error: .*", done.stderr, re.MULTILINE)
    hint = ""
    if "password authentication failed" in done.stderr:
        hint = "; POSTGRES_AIRFLOW_PASSWORD must be the one Postgres was first started with"
    sys.exit(f"airflow db migrate failed: {causes[-1] if causes else done.stderr}{hint}")


def make_administrator(password: str) -> str:
    """Write the roles and the administrator with this password; return what was done."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
    from airflow.utils.providers_configuration_loader import providers_configuration_loaded

    @providers_configuration_loaded
    def write() -> str:
        with get_application_builder() as builder:
            builder.add_permissions(update_perms=True)
            builder.sm.sync_roles()
            role = builder.sm.find_role("Admin")
            user = builder.sm.find_user(username=ADMINISTRATOR)
            if user is None:
                made = builder.sm.add_user(
                    ADMINISTRATOR, "Airflow", "Administrator", f"{ADMINISTRATOR}@localhost", role, password
                )
                return "created" if made else sys.exit("the administrator could not be created; see the lines above")
            if builder.sm.check_password(ADMINISTRATOR, password):
                return "unchanged"
            builder.sm.reset_password(user.id, password)
            return "now has the password from .env"

    return write()


def main() -> None:
    """Prepare the database and report the result in one line."""
    password = os.environ["AIRFLOW_ADMIN_PASSWORD"]
    migrate()
    make_pools()
    print(f"database ready; user {ADMINISTRATOR!r} {make_administrator(password)}", flush=True)


if __name__ == "__main__":
    main()
