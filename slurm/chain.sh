#!/usr/bin/env bash
# All that is left of a run as plain sbatch jobs, on a login node: an array of the unpublished shards and a merge behind
# it for every round, each round waiting for the merge before it.
#
#   bash slurm/chain.sh RUN --account=A --partition=GPU --gpus-per-node=4 --time=04:00:00
#   GRA_MERGE_OPTIONS="--account=A --partition=CPU" bash slurm/chain.sh RUN --account=A --partition=GPU ...
#
# The options go to the arrays; to the merges too, unless GRA_MERGE_OPTIONS has theirs. Typed again after a failure it
# submits what is still missing. `gra status RUN`, `gra logs RUN`, `gra cancel RUN` know these jobs.
set -euo pipefail
[[ $# -gt 0 ]] || { sed -n '2,10s/^# *//p' "$0" >&2; exit 2; }
run=$(realpath "$1"); shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${GRA_PYTHON:-python3}
[[ -n ${GRA_PYTHON:-} || ! -x .venv/bin/python ]] || python=.venv/bin/python
merge_options=("$@")
[[ -z ${GRA_MERGE_OPTIONS:-} ]] || read -ra merge_options <<<"$GRA_MERGE_OPTIONS"

common=(--parsable --output=/dev/null --kill-on-invalid-dep=yes)
name=gra-$(basename "$run")
left=$("$python" jobs/remaining.py "$run")
[[ -n $left ]] || { echo "nothing left to do of $run"; exit 0; }
mkdir -p "$run/logs/sbatch"
before='' arrays=''
while read -r kind round rest; do
    case $kind in
        shards)
            read -r offset indices comment <<<"$rest"
            id=$(GRA_OFFSET=$offset sbatch "${common[@]}" --job-name="${name:0:60}" --comment="$comment" \
                --array="$indices" ${before:+--dependency=afterok:"$before"} "$@" slurm/synthesize.sbatch "$run" "$round")
            arrays+=:${id%%;*}
            echo "round $round: array ${id%%;*} of shards $indices${offset:+ + $offset}"
            ;;
        merge)
            depend=${arrays:+afterany$arrays}
            [[ -n $depend || -z $before ]] || depend=afterok:$before
            before=$(sbatch "${common[@]}" --job-name="${name:0:53}-merge" --comment="$rest" \
                ${depend:+--dependency="$depend"} "${merge_options[@]}" slurm/merge.sbatch "$run" "$round")
            before=${before%%;*} arrays=''
            echo "round $round: merge $before${depend:+ after $depend}"
            ;;
    esac
done <<<"$left"
echo "next: gra status $run"
