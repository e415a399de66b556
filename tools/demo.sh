#!/usr/bin/env bash
# The main job on this machine: 42 seeds, a committee of five seats over a real small model on the CPU, two shards,
# merge, release. Makes .venv and the models first.   bash tools/demo.sh [RUN] [KEY=VALUE]...
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"
gra_env cpu
.venv/bin/python tools/models/get_models.py smollm2 minilm
run=runs/demo
if [[ $# -gt 0 && $1 != *=* ]]; then run=$1; shift; fi
echo "The demo's model has 135M parameters: what its reviewers say means little. It shows the whole path, for real."
if [[ -f $run/plan.json ]]; then
    .venv/bin/gra resume "$run" "$@"
else
    .venv/bin/gra plan "$run" --preset demo "$@"
    .venv/bin/gra submit "$run"
fi
echo
echo "one accepted sample:"
.venv/bin/gra inspect "$run"
echo
echo "this took $((SECONDS / 60)) min $((SECONDS % 60)) s"
