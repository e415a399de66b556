#!/usr/bin/env bash
# All that is left of a run as plain sbatch jobs, on a login node: an array of workers and a merge behind it, for every
# round or for several that are small; each array waits for the merge before it.
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
export GRA_HOME=${GRA_HOME:-$PWD} # whoever runs this script trusts what lies beside it
python=${GRA_PYTHON:-python3}
[[ -n ${GRA_PYTHON:-} || ! -x .venv/bin/python ]] || python=.venv/bin/python
merge_options=("$@")
[[ -z ${GRA_MERGE_OPTIONS:-} ]] || read -ra merge_options <<<"$GRA_MERGE_OPTIONS"

# Inside an allocation or a job there are variables that belong to it: srun would take them for orders in our jobs.
for name in $(compgen -e); do
    case $name in
        SLURM_CONF | SLURM_CONF_SERVER | SLURM_JWT | SLURM_CLUSTERS) ;;
        SLURM* | SRUN_* | PMI* | SUBMITIT_* | SBATCH_SIGNAL | SBATCH_EXPORT | SBATCH_MEM_* | SBATCH_ARRAY_INX | \
            SBATCH_NO_REQUEUE | SBATCH_OPEN_MODE | SBATCH_OUTPUT | SBATCH_ERROR)
            [[ $name != SLURM_JOB_ID ]] || unset CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES ZE_AFFINITY_MASK TMPDIR
            unset "$name"
            ;;
    esac
done

for option in "$@" ${GRA_MERGE_OPTIONS:-}; do
    case $option in
        -a* | --ar* | -d* | --dep* | -o* | --out* | -e | --err* | -J* | --job-n* | --comm* | --kill-on* | --parsable | -W | --wait | --wrap* | --no-req*)
            echo "chain: $option: the arrays, their names, logs and dependencies are this script's own -> leave it out" >&2
            exit 1
            ;;
    esac
done

common=(--parsable --output=/dev/null --kill-on-invalid-dep=yes)
name=gra-$(basename "$run")
left=$("$python" jobs/remaining.py "$run")
[[ -n $left ]] || { echo "nothing left to do of $run"; exit 0; }
mkdir -p "$run/logs/sbatch"
before='' arrays=''
while read -r kind round rest; do
    case $kind in
        workers)
            read -r last count comment <<<"$rest"
            id=$(sbatch "${common[@]}" --job-name="${name:0:60}" --comment="$comment" --array="0-$((count - 1))" \
                ${before:+--dependency=afterok:"$before"} "$@" slurm/synthesize.sbatch "$run" "$round" "$last")
            arrays+=:${id%%;*}
            echo "rounds $round to $last: array ${id%%;*} of $count workers"
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
echo "next: gra status $(printf %q "$run")"
