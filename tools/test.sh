#!/usr/bin/env bash
# All checks: format, lint, types, layers, spelling, shell, then the tests.   bash tools/test.sh [PYTEST ARGUMENTS]
# Without arguments the tests run in three parts: real engines first, for they take all cores; then the test cluster, which
# mostly waits, beside everything else.
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"
gra_env cpu dev train
bin=.venv/bin
$bin/python tools/get_models.py smollm2 minilm tiny-llama
$bin/ruff format --check .
$bin/ruff check .
$bin/mypy
$bin/lint-imports
$bin/codespell
$bin/shellcheck -x tools/*.sh .ci/run

default="not slow and not gpu"
if [[ $# -gt 0 ]]; then
    exec $bin/python -m pytest -m "$default" "$@"
fi
part() { $bin/python -m pytest -o cache_dir=".pytest_cache/$1" -q -m "$default and $2" "${@:3}"; }
log=$(mktemp)
failed=0
part engines vllm || failed=1
part cluster "not vllm" tests/cluster >"$log" 2>&1 &
part rest "not vllm" --ignore=tests/cluster || failed=1
wait $! || failed=1
cat "$log"
rm -f "$log"
[[ $failed == 0 ]] && echo "all checks and tests passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
exit $failed
