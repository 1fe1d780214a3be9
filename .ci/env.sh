#!/bin/sh
# Makes the project's environment in $VENV, and does nothing while all that it depends on is unchanged.
# Usage: sh .ci/env.sh [EXTRA ...]     an extra is `dev` or `docs` (settings.ini: dev_requirements, docs_requirements)
# Reads: VENV   where the environment goes      (default .venv)
#        PYTHON the Python to make it with      (default: the first of the list below that works)
#        TORCH  what pip is asked for as torch  (default torch==2.13.0; a P100 needs torch==2.7.1), or `cpu`: the
#               build without CUDA, which on Linux is a tenth of the size
# PYTHON and TORCH are remembered: a later call without them keeps what is there.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
ready=$venv/.ready
log=$venv/install.log
extras=$(echo "${*:-dev}" | tr ' ' ',')
remembered() { [ ! -f "$ready" ] || sed -n "s/^$1 //p" "$ready"; }
chosen_python=${PYTHON:-$(remembered python)}
chosen_torch=${TORCH:-$(remembered torch)}
torch=${chosen_torch:-torch==2.13.0}
index=
if [ "$torch" = cpu ]; then
    torch=torch==2.13.0
    # PyPI has builds with CUDA for Linux; PyTorch's own index has the others.
    if [ "$(uname -s)" = Linux ]; then
        torch=torch==2.13.0+cpu
        index=https://download.pytorch.org/whl/cpu
    fi
fi

say()  { echo "[env] $*"; }
fail() {
    say "$*" >&2
    exit 2
}

# Everything the environment is made from. A moved folder counts too: scripts in it hold absolute paths.
print_facts() {
    echo "folder $(pwd)"
    echo "python $chosen_python"
    echo "torch $chosen_torch"
    cat settings.ini setup.py pyproject.toml .ci/env.sh | cksum
}

# A stamp holds the facts and the extras installed so far; more extras than asked for do no harm.
is_ready() {
    [ -x "$venv/bin/python" ] && [ -f "$ready" ] || return 1
    [ "$(sed '$d' "$ready")" = "$(print_facts)" ] || return 1
    for extra in $(echo "$extras" | tr ',' ' '); do
        sed -n '$p' "$ready" | tr ',' '\n' | grep -qx "$extra" || return 1
    done
}

# A Python works if it is 3.10 to 3.14 and has the parts that the libraries load.
works() {
    "$1" -c 'import sys, bz2, ctypes, lzma, ssl, zlib
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1
}

find_python() {
    if [ -n "$chosen_python" ]; then
        works "$chosen_python" ||
            fail "PYTHON=$chosen_python is not a working Python 3.10 to 3.14; name another, or leave PYTHON out."
        echo "$chosen_python"
        return
    fi
    for python in python3 python3.12 python3.11 python3.13 python3.14 python3.10; do
        if works "$python"; then
            echo "$python"
            return
        fi
    done
    fail "No working Python from 3.10 to 3.14 found; install one, or name it: make PYTHON=/path/to/python3"
}

# Debian and Ubuntu ship python3 without `ensurepip`; three ways around that, then a clear word.
make_venv() {
    if "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        "$1" -m venv "$venv"
        return
    fi
    if "$1" -m virtualenv --version >/dev/null 2>&1; then
        "$1" -m virtualenv -q "$venv"
        return
    fi
    if "$1" -m venv --help >/dev/null 2>&1 && "$1" -m pip --python "$1" --version >/dev/null 2>&1; then
        "$1" -m venv --without-pip "$venv"
        "$1" -m pip --python "$venv/bin/python" install -q pip
        return
    fi
    package=$("$1" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "This Python cannot make environments; installing Debian's $package (we are root)."
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null
        "$1" -m venv "$venv"
        return
    fi
    fail "$1 cannot make environments (no ensurepip, no virtualenv)." \
        "On Debian or Ubuntu: sudo apt-get install $package; then run make again."
}

# pip's own words go to the log; the big downloads and the end are shown, each as it comes. (Not by awk: mawk, which
# Debian has, reads a pipe in blocks and would show all of them at the end.)
pip_install() {
    {
        "$venv/bin/python" -u -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1 && echo pip:ok
    } | tee -a "$log" | {
        ok=1
        while IFS= read -r line; do
            case $line in
                *Downloading\ *\ [MG]B\)* | *Using\ cached\ *\ [MG]B\)*) say "  ${line#"${line%%[! ]*}"}" ;;
                Installing\ collected*) say "  unpacking" ;;
                pip:ok) ok=0 ;;
            esac
        done
        [ $ok = 0 ]
    }
}

if is_ready; then exit 0; fi
python=$(find_python)
if [ -e "$venv" ]; then
    [ -f "$venv/pyvenv.cfg" ] ||
        fail "VENV=$venv exists and is no Python environment; name another folder or move it away."
    # Another folder, another Python or a half-made environment: start afresh. Else only update.
    if [ ! -f "$ready" ] || [ "$(sed -n 1,2p "$ready")" != "$(print_facts | sed -n 1,2p)" ]; then
        rm -rf "$venv"
    fi
fi
if [ ! -x "$venv/bin/python" ]; then
    say "making $venv with $("$python" --version 2>&1), then installing $torch and [$extras]:" \
        "some minutes the first time, and with CUDA a download of 3 GB (TORCH=cpu: 0.8 GB)"
    make_venv "$python"
else
    extras=$(printf '%s,%s\n' "$(sed -n '$p' "$ready")" "$extras" | tr ',' '\n' | sort -u | paste -sd, -)
    say "settings changed: bringing $venv up to date"
    # Keep lines 1 and 2 true while pip works, so that an interrupted update is taken up again, not started over.
    print_facts | sed -n 1,2p > "$ready"
    echo unfinished >> "$ready"
fi
: > "$log"
if ! { [ -z "$index" ] || pip_install "$torch" --no-deps --extra-index-url "$index"; } ||
    ! pip_install "$torch" -e ".[$extras]"; then
    tail -n 15 "$log" >&2
    fail "pip could not install the libraries (above, the end of $log)." \
        "No network? Then make can do nothing more; else run it again."
fi
{
    print_facts
    echo "$extras"
} > "$ready"
torch_version=$("$venv/bin/python" -c 'import torch; print("torch", torch.__version__)')
say "ready: $("$venv/bin/python" --version 2>&1), $torch_version"
