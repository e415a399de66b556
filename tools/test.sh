#!/usr/bin/env bash
# All checks: format, lint, types, layers, spelling, shell, then the tests. bash tools/test.sh [PYTEST ARGUMENTS]
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"
gra_env cpu dev
bin=.venv/bin
$bin/python tools/get_models.py smollm2 minilm tiny-llama
$bin/ruff format --check .
$bin/ruff check .
$bin/mypy
$bin/lint-imports
$bin/codespell
$bin/shellcheck -x tools/*.sh .ci/run
$bin/python -m pytest -m "not slow and not gpu" "$@"
