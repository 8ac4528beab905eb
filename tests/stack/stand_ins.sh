#!/usr/bin/env bash
# Makes sure that images the stack names and does not build are on this engine:  tests/stack/stand_ins.sh NAME...
# NAME is a folder of stand-ins/. Its image is the default of the compose files' variable NAME_IMAGE (redis: REDIS_IMAGE).
# One that is here is used, else the official one is pulled; without a registry the folder is built under that name.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

for name in "$@"; do
  variable=$(tr 'a-z-' 'A-Z_' <<<"$name")_IMAGE
  image=$(grep -ohP "\\$\\{$variable:-\\K[^}]+" "$here"/../../docker-compose*.yml | head -1) ||
    { echo "stand_ins.sh: no compose file names an image by \${$variable:-...}; known: $(ls "$here/stand-ins" | xargs)" >&2; exit 64; }
  docker image inspect "$image" >/dev/null 2>&1 && continue
  timeout 120 docker pull --quiet "$image" >/dev/null 2>&1 && continue
  echo "stand_ins.sh: no registry has $image; building the stand-in" >&2
  docker build --quiet --tag "$image" "$here/stand-ins/$name" >/dev/null
done
