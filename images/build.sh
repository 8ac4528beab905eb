#!/usr/bin/env bash
# Builds the images, all or those named, as PIPELINE_IMAGE_PREFIX/NAME:PIPELINE_IMAGE_TAG (default vision-mlops/NAME:dev).
#   images/build.sh                       every image
#   images/build.sh mlflow register       these
# One at a time: the layers are shared, so the first pays and the others follow in seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in PIPELINE_IMAGE_PREFIX PIPELINE_IMAGE_TAG PYTHON_IMAGE; do  # compose reads them in .env; so do we
  [ -n "${!name:-}" ] || printf -v "$name" '%s' "$(sed -n "s/^$name=//p" .env 2>/dev/null || true)"
done
all=(mlflow register rollback deploy prepare train evaluate tune serving airflow)
prefix=${PIPELINE_IMAGE_PREFIX:-vision-mlops} tag=${PIPELINE_IMAGE_TAG:-dev}
commit=${PIPELINE_GIT_COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
arguments=(--build-arg "GIT_COMMIT=$commit" ${PYTHON_IMAGE:+--build-arg "PYTHON_IMAGE=$PYTHON_IMAGE"})
[ $# -gt 0 ] || set -- "${all[@]}"

for name in "$@"; do
  case $name in
    mlflow | airflow) source=(--file "images/$name/Dockerfile") ;;
    register | rollback | deploy | prepare | train | evaluate | tune | serving) source=(--file images/Dockerfile --target "$name") ;;
    *) echo "build.sh: image '$name' is unknown; choose from: ${all[*]}" >&2 && exit 64 ;;
  esac
  started=$SECONDS
  DOCKER_BUILDKIT=1 docker build --quiet "${source[@]}" "${arguments[@]}" --tag "$prefix/$name:$tag" . >/dev/null
  printf '%-9s %5d MB %4d s  %s\n' "$name" \
    $(($(docker image inspect --format '{{.Size}}' "$prefix/$name:$tag") / 1000000)) $((SECONDS - started)) "$prefix/$name:$tag"
done
