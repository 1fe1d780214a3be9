#!/bin/sh
# Runs notebooks with other versions of the libraries than $VENV has: the oldest that settings.ini allows, the newest,
# and the oldest transformers, which excludes the oldest of its companions.
# Usage: sh .ci/versions.sh [PATTERN ...]     which notebooks, as for .ci/test.py
#                                             (default: commands, figures, data, widgets; for transformers two of hf/)
# Reads: VENV   the environment made by .ci/env.sh (default .venv): torch, and whatever settings.ini does not name,
#               come from it
#        ONLY   `oldest`, `newest` or `transformers` (default: all)
# nbdev 2 and fastcore 2 exclude each other, so the newest can only be tested without nbdev. torch is not varied:
# another one is gigabytes.
# By hand, with another torch or Python:    make test VENV=/tmp/other TORCH=torch==2.7.1 PYTHON=python3.13
set -eu
cd "$(dirname "$0")/.."
python=${VENV:-.venv}/bin/python
chosen=$*

# Of `fastcore>=1.8.8,<3` the oldest is `fastcore==1.8.8`.
wanted() {
    "$python" - "$1" <<'PYTHON'
import configparser, re, sys
ini = configparser.ConfigParser(delimiters=['='])
ini.read('settings.ini', encoding='utf-8')
kind = 'dev_requirements' if sys.argv[1] == 'transformers' else 'requirements'
needs = [r for r in ini['DEFAULT'][kind].split() if not r.startswith('torch')]
if kind == 'dev_requirements':
    needs = [r for r in needs if r.startswith('transformers')]
print(*[re.sub('>=([^,]+).*', r'==\1', r) if sys.argv[1] != 'newest' else r for r in needs])
PYTHON
}

# What is installed here comes first, then all of $VENV, which pip sees and leaves as it is.
make_venv() {
    "$python" -m venv --clear --without-pip "$folder"
    below=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$below" > "$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
    if ! "$python" -m pip --python "$folder/bin/python" install -q --disable-pip-version-check --upgrade $needs \
        > "$folder/install.log" 2>&1; then
        tail -n 15 "$folder/install.log" >&2
        exit 2
    fi
    print_facts > "$folder/.ready"
}

print_facts() {
    echo "$(pwd) $needs"
    date +%F
    cksum < "${VENV:-.venv}/.ready"
}

# nbconvert's templates lie outside the packages.
JUPYTER_PATH=$("$python" -c 'import sys; print(sys.prefix)')/share/jupyter
export JUPYTER_PATH
status=0
for name in ${ONLY:-oldest newest transformers}; do
    notebooks='nbs/base/01 nbs/base/03 nbs/base/05 nbs/base/08 nbs/data/09 nbs/data/11 nbs/monitor/13'
    [ $name != transformers ] || notebooks='nbs/hf/02 nbs/hf/06'
    folder=build/versions/$name
    needs=$(wanted $name)
    if [ ! -f "$folder/.ready" ] || [ "$(cat "$folder/.ready")" != "$(print_facts)" ]; then
        make_venv
    fi
    "$folder/bin/python" - $name <<'PYTHON'
import importlib, re, sys
from importlib.metadata import version
from pathlib import Path
names = 'torch fastcore numpy datasets ipywidgets safetensors matplotlib transformers'.split()
found = [f'{n} {version(n)}' for n in names]
print(f'\n[versions] {sys.argv[1]}: Python {sys.version.split()[0]}', *found, sep=', ', flush=True)
sys.path.insert(0, '.')
modules = sorted(Path('i3nb').rglob('[a-z]*.py'))
try:
    import transformers
except ImportError as e:  # no requirement of the library: it wants newer companions than the oldest
    print('[versions] without transformers:', str(e).splitlines()[0], flush=True)
    modules = [m for m in modules if not re.search('^(from|import) transformers', m.read_text(), re.M)]
for module in modules:
    importlib.import_module('.'.join(module.with_suffix('').parts))
PYTHON
    # shellcheck disable=SC2086
    "$python" .ci/test.py ${chosen:-$notebooks} --python "$folder/bin/python" || status=1
done
exit $status
