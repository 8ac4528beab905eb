#!/usr/bin/env bash
# `make test-long`: what takes minutes each and is run every night. Needs a Docker engine.
set -euo pipefail
cd "$(dirname "$0")/.."
REQUIRE_DOCKER=1 TEST_LONG=1 pytest --durations=15 tests "$@"
python -m tests.chaos --jobs 2
