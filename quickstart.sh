#!/usr/bin/env bash
# From a fresh clone to the first streamed token, with one command and no server to install.
#
#   ./quickstart.sh                  install into .venv, start everything, show one streamed answer, keep running
#   ./quickstart.sh --once           the same, but stop after the answer (so it is without a terminal)
#   ./quickstart.sh test [ARGS…]     install what the tests need and run pytest with ARGS
#   ./quickstart.sh setup            only install what developers need
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python
PORT=8000            # when it is taken, any free one
READY_WITHIN_S=90    # a cold file cache makes the first start of Python slow
UP=                  # process id of `sagellm-control up`
SCRATCH=             # folder that goes when we go

say() { printf '%s\n' "$*" >&2; }

die() {
    say "quickstart: $*"
    exit 1
}

find_python() {
    local candidate
    for candidate in python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "Python 3.11 is needed (sageLLM's protocol package is built for it) and neither python3.11 nor python3 is one.
  Debian, Ubuntu: apt-get install python3.11 python3.11-venv
  macOS:          brew install python@3.11
  anywhere:       uv python install 3.11, or pyenv install 3.11"
}

# install EXTRA: the project and its dependencies, unless that was done since pyproject.toml changed.
install() {
    local extra=$1 stamp=$VENV/.installed${1:+-$1} wanted python
    wanted=$(cksum <"$ROOT/pyproject.toml")
    if [[ -x $PYTHON && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
        return
    fi
    if [[ ! -x $PYTHON ]]; then
        python=$(find_python)
        say "Making .venv with $("$python" --version) …"
        "$python" -m venv "$VENV" || die "$python cannot make a virtual environment (on Debian: apt-get install python3.11-venv)"
    fi
    say "Installing sagellm-control${extra:+ and what its ${extra} extra needs} into .venv …"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-compile --editable "$ROOT${extra:+[$extra]}" ||
        die "pip failed; its message is above"
    # pip compiles on one core, and nothing of what it installs in place; and each of our processes would compile it all
    # where none may write it. What does not compile (some package's template, say) nobody imports.
    "$PYTHON" -m compileall -qq -j 0 "$VENV"/lib/python*/site-packages "$ROOT/control" "$ROOT/workers" || true
    printf '%s' "$wanted" >"$stamp"
    # The dev extra contains all that the project itself needs.
    printf '%s' "$wanted" >"$VENV/.installed"
}

stop() {
    if [[ -n $UP ]] && kill -TERM "$UP" 2>/dev/null; then
        wait "$UP" || true
    fi
    if [[ -n $SCRATCH ]]; then
        rm -rf "$SCRATCH"
    fi
}

processes() { "$PYTHON" -c 'import os; print((os.cpu_count() or 1) + 1)'; }

free_port() {
    "$PYTHON" - "$PORT" <<'PY'
import sys
from sagellm_control.embedded.ports import PortInUseError, free_port, require_free
try:
    require_free("127.0.0.1", int(sys.argv[1]), "--port")
    print(sys.argv[1])
except PortInUseError:
    print(free_port())
PY
}

# The text of an event stream on standard input, piece by piece as it comes.
print_tokens() {
    "$PYTHON" -u -c '
import json, sys
tokens = 0
for line in sys.stdin:
    if line.startswith("data: {"):
        chunk = json.loads(line[6:])
        for choice in chunk.get("choices", ()):
            text = choice.get("delta", {}).get("content")
            if text:
                tokens += 1
                print(text, end="", flush=True)
    elif line.lstrip().startswith("{"):
        sys.exit(line)  # no stream: an error body
print()
sys.exit(0 if tokens else "no token came")
'
}

chat() {
    local url=http://127.0.0.1:$PORT/v1/chat/completions
    local body='{"model": "simulated-1", "stream": true, "max_tokens": 40, "messages": [{"role": "user", "content": "Hello"}]}'
    say
    say "\$ curl -N $url -H 'Content-Type: application/json' -d '$body'"
    if command -v curl >/dev/null; then
        curl -sSN "$url" -H 'Content-Type: application/json' -d "$body" | print_tokens
    else
        "$PYTHON" - "$url" "$body" <<'PY' | print_tokens
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), {"Content-Type": "application/json"})
with urllib.request.urlopen(request) as answer:
    for line in answer:
        print(line.decode(), end="", flush=True)
PY
    fi
}

demo() {
    local once=$1 folder=$ROOT/.sagellm-control announced deadline
    install ""
    PORT=$(free_port)
    SCRATCH=$(mktemp -d)
    announced=$SCRATCH/ready
    if [[ -n $once ]]; then
        folder=$SCRATCH/store
    fi
    trap stop EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    "$PYTHON" -m sagellm_control up --port "$PORT" --data-dir "$folder" --model simulated-1 >"$announced" &
    UP=$!
    deadline=$((SECONDS + READY_WITHIN_S))
    until grep -q '^Ready' "$announced"; do
        kill -0 "$UP" 2>/dev/null || die "it did not start; the reason is above"
        ((SECONDS < deadline)) || die "it was not ready within $READY_WITHIN_S s; see $folder/logs"
        sleep 0.1
    done
    chat || die "the chat failed; see $folder/logs"
    if [[ -n $once ]]; then
        return
    fi
    sed 's|^  sagellm-control |  .venv/bin/sagellm-control |' "$announced" >&2
    wait "$UP"
}

case ${1-} in
    "")
        if [[ -t 0 && -t 1 ]]; then demo ""; else demo once; fi
        ;;
    --once) demo once ;;
    setup) install dev ;;
    test)
        shift
        install dev
        cd "$ROOT"
        # They mostly wait (for leases, processes, timeouts): one process a core, whoever is done takes over from the others.
        # One more than there are cores, as tests mostly wait for leases and processes.
        exec "$PYTHON" -m pytest --numprocesses "$(processes)" --maxprocesses 8 --dist worksteal "$@"
        ;;
    *)
        sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        [[ $1 == -h || $1 == --help ]] || exit 2
        ;;
esac
