#!/usr/bin/env bash
# Prints a command that asks the service about a test image.
set -euo pipefail
printf '\nThe champion answers. Try it:\n\n  curl -F image=@%s %s/predict_image\n\n' \
  "${PIPELINE_HOME#"$PWD"/}/sample.png" "${SERVING_URL:-http://127.0.0.1:3000}"
