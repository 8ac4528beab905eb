#!/usr/bin/env bash
# Prints PIPELINE_IMAGE_DIGESTS for .env: the digests that the stage images have in the registry they were pushed to.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in PIPELINE_IMAGE_PREFIX PIPELINE_IMAGE_TAG; do
  [ -n "${!name:-}" ] || printf -v "$name" '%s' "$(sed -n "s/^$name=//p" .env 2>/dev/null || true)"
done
prefix=${PIPELINE_IMAGE_PREFIX:-vision-mlops} tag=${PIPELINE_IMAGE_TAG:-dev} pairs=()
for stage in prepare tune train evaluate register rollback deploy; do
  image=$prefix/$stage:$tag
  digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" | sed -n "s|^$prefix/$stage@||p" | head -1)
  [ -n "$digest" ] || { echo "$image has no digest: push it first (docker push $image)" >&2; exit 78; }
  pairs+=("\"$stage\": \"$digest\"")
done
printf 'PIPELINE_IMAGE_DIGESTS={%s}\n' "$(printf '%s, ' "${pairs[@]}" | sed 's/, $//')"
