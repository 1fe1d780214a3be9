"""Build the folder that `kaggle kernels push` takes: the kernel notebook with the library inside, and its metadata.

Usage: python .ci/pack_kaggle.py [--user NAME] [--out build/kaggle]
Kaggle takes one code file and nothing else, so the library's sources go into a cell of the notebook, zipped and written
as text.
The same sources give the same bytes."""

import argparse
import base64
import configparser
import hashlib
import io
import json
import subprocess
import textwrap
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, MARK = ROOT / 'kaggle', '# [the packed library]'
OPTIONAL = ('nvidia-ml-py',)  # the library works without: the notebook installs it where it can, and goes on
INI = configparser.ConfigParser(delimiters=['='])
INI.read(ROOT / 'settings.ini', encoding='utf-8')
CFG = INI['DEFAULT']


def pack(lib=ROOT / CFG['lib_path']) -> bytes:
    "The library's modules as a zip file"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        for path in sorted(lib.rglob('*')):
            if not path.is_file() or '__pycache__' in path.parts or path.name == '_modidx.py':
                continue
            z.writestr(
                zipfile.ZipInfo(path.relative_to(lib.parent).as_posix(), (1980, 1, 1, 0, 0, 0)),
                path.read_bytes(),
                zipfile.ZIP_DEFLATED,
                9,
            )
    return buffer.getvalue()


def git(*args) -> str:
    run = subprocess.run(['git', *args], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip() if run.returncode == 0 else ''


def version() -> str:
    "The version, and the commit it was made from"
    commit = git('rev-parse', '--short=10', 'HEAD')
    changed = ' with changes' if commit and git('status', '--porcelain', '--', CFG['lib_path'], 'kaggle') else ''
    return CFG['version'] + (f' (commit {commit}{changed})' if commit else '')


def library_cell() -> str:
    "The source of the cell that carries the library"
    packed = pack()
    packages = [r for r in CFG['requirements'].split() if not r.startswith('torch')]
    wants = [r for r in packages if r.startswith(OPTIONAL)]
    needs = [r for r in packages if r not in wants]
    text = '\n'.join(textwrap.wrap(base64.b64encode(packed).decode(), 8000))
    return f'''{MARK} i3nb's Python sources: a zip file, written as text. Nothing to change here.
VERSION = {version()!r}
NEEDS = {' '.join(needs)!r}
WANTS = {' '.join(wants)!r}
SHA256 = {hashlib.sha256(packed).hexdigest()!r}
LIBRARY = """
{text}
"""'''


def build(out: Path, user: str = ''):
    "Write the notebook and its metadata into `out`"
    notebook = json.loads((SOURCE / 'i3-300m.ipynb').read_text(encoding='utf-8'))
    cells = [c for c in notebook['cells'] if c['cell_type'] == 'code' and ''.join(c['source']).startswith(MARK)]
    assert len(cells) == 1, f'kaggle/i3-300m.ipynb must have one cell that begins with {MARK}'
    cells[0]['source'] = library_cell()
    for c in notebook['cells']:
        if c['cell_type'] == 'code':
            c['outputs'], c['execution_count'] = [], None
    meta = json.loads((SOURCE / 'kernel-metadata.json').read_text(encoding='utf-8'))
    if user:
        meta['id'] = meta['id'].replace('INSERT_USERNAME', user)
    out.mkdir(parents=True, exist_ok=True)
    (out / meta['code_file']).write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    (out / 'kernel-metadata.json').write_text(json.dumps(meta, indent=2) + '\n', encoding='utf-8')
    return meta


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--user', default='', help='your name on Kaggle')
    parser.add_argument('--out', type=Path, default=ROOT / 'build' / 'kaggle')
    args = parser.parse_args()
    meta = build(args.out, args.user)
    where = args.out.relative_to(ROOT) if args.out.is_relative_to(ROOT) else args.out
    print(
        f'{where}/{meta["code_file"]}: {(args.out / meta["code_file"]).stat().st_size / 1000:.0f} kB, i3nb {version()}'
    )
    if 'INSERT_USERNAME' in meta['id']:
        print(f'For the CLI: make kaggle USER=your-kaggle-name, then kaggle kernels push -p {where}')
    else:
        print(f'kaggle kernels push -p {where}    makes or updates {meta["id"]}')


if __name__ == '__main__':
    main()
