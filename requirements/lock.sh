#!/usr/bin/env bash
# Pins every environment of pyproject.toml, with hashes, in one resolution: dev first, the others constrained to its versions.
#   requirements/lock.sh             write requirements/*.txt, keeping pins that still fit
#   requirements/lock.sh --upgrade   the same, newest versions
#   requirements/lock.sh --check     fail when a file is out of date with pyproject.toml
# The files hold names, versions and hashes; they install on Python 3.11 and later, on Linux and macOS.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
environments=(client torch vision inference tune serving mlflow airflow)
into=requirements
upgrade=()
case ${1:-} in
  --check) into=$(mktemp -d) && trap 'rm -rf "$into"' EXIT && cp requirements/*.txt "$into" ;;
  --upgrade) upgrade=(--upgrade) ;;
  "") ;;
  *) echo "lock.sh: unknown option $1; use --check, --upgrade or nothing" >&2 && exit 64 ;;
esac

compile() {  # SOURCE OUTPUT [options]
  "$uv" --no-config pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-annotate --custom-compile-command "make lock" "$1" --output-file "$into/$2.txt" "${@:3}" >/dev/null
}

compile pyproject.toml dev --extra dev "${upgrade[@]}"
for name in "${environments[@]}"; do
  compile pyproject.toml "$name" --extra "$name" --constraints "$into/dev.txt"
done
compile requirements/uv.in uv "${upgrade[@]}"

if [ "$into" != requirements ]; then
  for file in requirements/*.txt; do
    cmp -s "$file" "$into/${file##*/}" || { echo "$file is out of date with pyproject.toml; run make lock" >&2; exit 1; }
  done
fi
