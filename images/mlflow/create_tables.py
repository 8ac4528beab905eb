"""Creates the tables of MLflow and of its users in new databases, with MLflow's own commands, called in this process.

As processes they would show the databases' passwords to whoever lists processes.
"""

from __future__ import annotations

import os

from mlflow.db import upgrade
from mlflow.server.auth.db.cli import upgrade as upgrade_auth

if __name__ == "__main__":
    upgrade.main([os.environ["MLFLOW_BACKEND_STORE_URI"]], standalone_mode=False)
    upgrade_auth.main(["--url", os.environ["MLFLOW_AUTH_DATABASE_URI"]], standalone_mode=False)
