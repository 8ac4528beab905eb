#!/bin/sh
# First start of an empty volume: one user and one database of the same name for each program, closed to the others.
set -eu

create() {  # NAME VARIABLE, the second holding the password
  PASSWORD=$(printenv "$2") psql -q -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres -v name="$1" <<'SQL'
\getenv password PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

create mlflow POSTGRES_MLFLOW_PASSWORD
create mlflow_auth POSTGRES_MLFLOW_AUTH_PASSWORD
create airflow POSTGRES_AIRFLOW_PASSWORD
psql -q -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  -c "REVOKE ALL ON DATABASE postgres FROM PUBLIC" -c "REVOKE ALL ON DATABASE template1 FROM PUBLIC"
