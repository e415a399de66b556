#!/usr/bin/env bash
# All checks: format, lint, types, layers, spelling, shell, then the tests.   bash tools/test.sh [PYTEST ARGUMENTS]
# Without arguments they run in parts: the checks, beside the making of models; two test clusters and real engines, which
# often wait, beside everything else; at last what needs all cores, alone.
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"
gra_env cpu dev train
bin=.venv/bin
models() { $bin/python tools/models/get_models.py smollm2 minilm tiny-llama; }
checks() {
    $bin/ruff format --check . && $bin/ruff check . && $bin/mypy && $bin/lint-imports && $bin/codespell &&
        $bin/shellcheck -x tools/*.sh .ci/run
}

default="not slow and not gpu"
if [[ $# -gt 0 ]]; then
    models
    checks
    exec $bin/python -m pytest -m "$default" "$@"
fi
tests() { # PART MARKERS [ARGUMENTS]
    local cache=.pytest_cache/$1
    rm -rf "$cache"
    $bin/python -m pytest -o cache_dir="$cache" -q -m "$default and $2" "${@:3}"
}
mapfile -t real < <(grep -rl --include='test_*.py' --exclude-dir=cluster 'mark\.vllm' tests) # files with real engines
part() { # NAME
    case $1 in
    checks) checks ;;
    engines) # on one core: an engine's threads wait for each other at every step, on busy cores for long
        local cores
        cores=$(taskset -cp $$) && taskset -cp "${cores##*[-, ]}" "$BASHPID" >/dev/null || true # the last of them
        tests engines "vllm and not all_cores" tests/test_main_job.py "${real[@]}" ;;
    all_cores) tests all_cores all_cores "${real[@]}" tests/cluster/test_scale.py ;;
    runs) tests runs "not all_cores" tests/cluster/test_run*.py tests/cluster/test_submitter.py ;;
    cluster) tests cluster "not all_cores" tests/cluster --ignore-glob='*/test_run*' --ignore-glob='*/test_submitter*' ;;
    rest) # files with long tests first, or one worker ends alone; threads of one worker would wait for the other's
        OMP_NUM_THREADS=1 tests rest "not vllm" tests/training tests/crash tests/release tests/evaluation tests/merge tests/site/test_stage.py \
            tests/test_docs.py tests --ignore=tests/cluster -n 2 --dist loadfile --no-loadscope-reorder ;;
    esac
}

failed=0 logs=.pytest_cache/logs
fails() { failed=1 && mkdir -p ".pytest_cache/$1" && touch ".pytest_cache/$1/failed"; } # PART: .ci/run reads it
rm -rf .pytest_cache/*/failed $logs && mkdir -p $logs
models >"$logs/models" 2>&1 &
part checks || fails checks
wait $! || { cat "$logs/models" && exit 1; }
declare -A jobs
for each in runs cluster engines; do
    part $each >"$logs/$each" 2>&1 &
    jobs[$each]=$!
done
part rest || fails rest
for each in "${!jobs[@]}"; do wait "${jobs[$each]}" || fails "$each"; done
cat "$logs"/*
part all_cores || fails all_cores
[[ $failed == 0 ]] && echo "all checks and tests passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
exit $failed
