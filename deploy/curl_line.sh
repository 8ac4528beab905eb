#!/usr/bin/env bash
# Prints a command that asks the service about a test image:  deploy/curl_line.sh DAG_ID
set -euo pipefail
file=$PIPELINE_HOME/sample.png
python -m tasks.cli.sample "$1" "$file"
key=
[ -z "${SERVING_API_KEY:-}" ] || key='-H "Authorization: Bearer $SERVING_API_KEY" '  # the reader's shell fills it in
printf '\nThe champion answers. Try it:\n\n  curl %s-F image=@%s %s/predict_image\n\n' \
  "$key" "${file#"$PWD"/}" "${SERVING_URL:-http://127.0.0.1:3000}"
