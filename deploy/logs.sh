#!/usr/bin/env bash
# Follows the output of one service, whichever compose file it is in, or of all:  deploy/logs.sh [SERVICE]
set -euo pipefail
cd "$(dirname "$0")/.."
files=(docker-compose.yml docker-compose-mlops.yml)
if [ $# = 0 ]; then
  for file in "${files[@]}"; do docker compose -f "$file" logs --follow --tail 50 & done
  trap 'kill $(jobs -p) 2>/dev/null' EXIT
  wait
  exit
fi
for file in "${files[@]}"; do
  if docker compose -f "$file" config --services | grep -qxF -- "$1"; then
    exec docker compose -f "$file" logs --follow --tail 200 "$1"
  fi
done
echo "service '$1' is unknown; choose from: $(for file in "${files[@]}"; do docker compose -f "$file" config --services; done | sort | tr '\n' ' ')" >&2
exit 64
