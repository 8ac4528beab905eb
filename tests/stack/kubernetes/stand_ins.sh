#!/usr/bin/env bash
# Images that the test cluster's pods need and this project does not build.
#   vm-test/postgres:rootless, vm-test/s3:rootless   run as the manifests have them run: the official images as they are,
#                                                    a machine's stand-ins changed for it (rootless/NAME/Dockerfile)
#   busybox:1.27                                     empties a volume that is given back, in clusters as old as 1.20
set -euo pipefail
cd "$(dirname "$0")/rootless"
have() { docker image inspect "$1" >/dev/null 2>&1; }
for name in postgres s3; do
  image=$(sed -n 's/^FROM //p' "$name/Dockerfile")
  have "$image" || docker pull --quiet "$image" >/dev/null
  # What gives a stand-in away: its entry point's way of becoming another user, and Ceph's gateway.
  if docker run --rm --entrypoint sh "$image" -c 'grep -qs -e --init-groups /usr/local/bin/docker-entrypoint.sh || command -v radosgw >/dev/null'; then
    docker build --quiet --tag "vm-test/$name:rootless" "$name" >/dev/null
  else
    docker tag "$image" "vm-test/$name:rootless"
  fi
done
have busybox:1.27 || timeout 60 docker pull --quiet busybox:1.27 >/dev/null 2>&1 || docker tag alpine:3.24.2 busybox:1.27
