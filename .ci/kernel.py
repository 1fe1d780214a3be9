"""Run the Kaggle notebook headless, as "Save & Run All" would, and look at what it made; then run it again with that
output attached.

Usage: python .ci/kernel.py [--keep FOLDER]
The notebook is the built one (build/kaggle/), unchanged, in an empty folder: a read-only input below an odd path, a
working folder, a scratch folder, no HOME. Small by environment variables only: the tiny preset, local data, seconds of
training. A few minutes on two cores."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / '.ci'))
import nbformat
import pack_kaggle as builder
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError
from nbconvert import HTMLExporter

FILES = (
    'model.safetensors',
    'config.json',
    'chunk_tokenizer.json',
    'metrics.jsonl',
    'samples.jsonl',
    'stories.txt',
    'plot.png',
    'plot.svg',
    'MODEL_CARD.md',
)


def say(text):
    print(f'[kernel] {text}', flush=True)


def check_push(folder):
    "What `kaggle kernels push` and Kaggle ask of the folder (kaggle 2.2.4, its `kernels_push`)"
    meta = json.loads((folder / 'kernel-metadata.json').read_text())
    owner, slug = meta['id'].split('/')
    assert re.sub(r'[^a-z0-9]+', '-', meta['title'].lower()).strip('-') == slug and len(meta['title']) >= 5, (
        'title and id do not agree'
    )
    assert (
        meta['language'] == 'python' and meta['kernel_type'] == 'notebook' and meta['machine_shape'] == 'NvidiaTeslaT4'
    )  # that is 2 × T4
    assert meta['is_private'] and meta['enable_gpu'] and meta['enable_internet']
    size = (folder / meta['code_file']).stat().st_size
    assert size < 1_000_000, f'{size} bytes: Kaggle takes notebooks of up to 1 MB'
    assert not any(c.get('outputs') for c in json.loads((folder / meta['code_file']).read_text())['cells']), (
        'outputs in the notebook'
    )


def make_data(folder):
    "A few hundred made-up stories as somebody's own file"
    code = """
import json, sys
from i3nb.data.grammar import grammar_stories
for name, seed, n in (('stories.jsonl', 1, 400), ('held out.jsonl', 2, 12)):
    with open(f'{sys.argv[1]}/{name}', 'w') as f:
        f.writelines(json.dumps(dict(text=t))+'\\n' for t in grammar_stories(n, seed))
"""
    folder.mkdir(parents=True)
    subprocess.run([sys.executable, '-c', code, str(folder)], check=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})


def read_only(folder):
    for p in [*folder.rglob('*'), folder]:
        p.chmod(0o555 if p.is_dir() else 0o444)


def writable(folder):
    for p in [folder, *folder.rglob('*')]:
        if p.is_dir() and not p.is_symlink():
            p.chmod(0o755)


def environment(box, minutes):
    "What the kernel's process sees: nothing of this repository, no HOME"
    keep = {
        k: v
        for k, v in os.environ.items()
        if k not in ('HOME', 'PYTHONPATH', 'I3NB_SAMPLE', 'I3NB_CACHE', 'HF_HOME') and not k.startswith('I3NB_')
    }
    return keep | dict(
        KAGGLE_KERNEL_RUN_TYPE='Batch',
        I3NB_INPUT=str(box / 'read only' / 'input'),
        I3NB_WORKING=str(box / 'working'),
        I3NB_SCRATCH=str(box / 'scratch'),
        I3NB_PRESET='i3-tiny',
        I3NB_MINUTES=str(minutes),
        I3NB_DATA=str(box / 'read only' / 'input' / 'data set' / 'stories.jsonl'),
        I3NB_VAL_DATA=str(box / 'read only' / 'input' / 'data set' / 'held out.jsonl'),
        I3NB_BATCH_SIZE='4',
        I3NB_ARGS='--eval_every 10 --eval_docs 4 --warmup 3 --seq_len 128',
        HF_HUB_OFFLINE='1',
        I3NB_SESSION_HOURS='1000',
    )  # a session is as old as the machine's first process, and this machine may be older than any session


def interrupted(notebook, box, minutes, seconds=30):
    "Run the notebook until the watching cell has lasted so long; then its kernel is gone, as when a page is lost"
    nb = nbformat.read(notebook, as_version=4)
    (box / 'working').mkdir(exist_ok=True)
    try:
        NotebookClient(
            nb, timeout=seconds, kernel_name='python3', resources={'metadata': {'path': str(box / 'working')}}
        ).execute(
            env=environment(box, minutes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # its dying words
    except CellTimeoutError as e:
        assert 'session.watch' in str(e), f'not the watching cell was slow: {e}'
    else:
        raise AssertionError('the training was over before the kernel could be killed')


def execute(notebook, box, minutes):
    "Run the notebook in the working folder; the executed notebook"
    nb = nbformat.read(notebook, as_version=4)
    started = time.time()
    (box / 'working').mkdir(exist_ok=True)
    NotebookClient(
        nb, timeout=400, kernel_name='python3', resources={'metadata': {'path': str(box / 'working')}}
    ).execute(env=environment(box, minutes))
    say(f'ran in {time.time() - started:.0f} s')
    return nb


def outputs(nb):
    return [o for c in nb.cells if c.cell_type == 'code' for o in c.outputs]


def printed(nb):
    return ''.join(o.text for o in outputs(nb) if o.output_type == 'stream')


def rows_of(run):
    return [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]


def check_outputs(nb):
    "What a reader of the executed notebook sees"
    mimes = [m for o in outputs(nb) for m in o.get('data', {})]
    assert not [o for o in outputs(nb) if o.output_type == 'error'], 'a cell raised'
    tables = [o for o in outputs(nb) if 'i3nb-preflight' in o.get('data', {}).get('text/html', '')]
    assert len(tables) == 1 and all(
        w in tables[0].data['text/html'] for w in ('device', 'torch', 'memory', 'disk', 'data', 'time')
    ), 'the pre-flight table is missing or not whole'
    pictures = sum(m.startswith('image/') for m in mimes) + sum(
        h.count('<img') + h.count('<svg') for o in outputs(nb) if (h := o.get('data', {}).get('text/html', ''))
    )
    assert pictures == 1, f'{pictures} pictures, expected one for the one dashboard'
    assert not any('widget' in m for m in mimes) and not nb.metadata.get('widgets'), 'a widget that will be dead'


def check_html(nb, out):
    "The page that Kaggle would make of it"
    page, _ = HTMLExporter().from_notebook_node(nb)
    out.write_text(page, encoding='utf-8')
    for bad in ('Loading widget', 'Traceback (most recent', 'application/vnd.jupyter.widget-view'):
        assert bad not in page, f'{bad!r} in the page'
    assert page.count('i3nb-preflight') >= 1 and page.count('src="data:image/png') == 1, (
        'the page lacks the table, or has not exactly one picture'
    )


def check_files(run, data_name='stories.jsonl'):
    "What lies in the output folder"
    missing = [f for f in FILES if not (run / f).is_file() or not (run / f).stat().st_size]
    assert not missing, f'not in the output: {missing}'
    last, card = [r for r in rows_of(run) if r.get('val_ppl')][-1], (run / 'MODEL_CARD.md').read_text()
    for shown in (f'{last["val_ppl"]:.2f}', f'{last["val_bits_per_byte"]:.3f}', data_name):
        assert shown in card, f'{shown} is not in the model card'
    assert json.loads((run / 'run.json').read_text())['state'] == 'finished', 'the run did not finish'
    code = """
import sys
from i3nb.generate import generate
from i3nb.model import I3Model
from i3nb.tokenizer import ChunkTokenizer
folder = sys.argv[1]
print(generate(I3Model.from_pretrained(folder), ChunkTokenizer.load(folder), 'once', max_new_tokens=5))
"""
    r = subprocess.run(
        [sys.executable, '-c', code, str(run)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert r.returncode == 0, r.stderr


def check_library(box):
    "That the notebook used the library it carries, and no other"
    noted = json.loads((box / 'working' / 'i3-tiny' / 'launch.json').read_text())
    assert Path(noted['library']).parent == box / 'scratch', f'the packed library was not used, but {noted["library"]}'
    assert str(ROOT) not in ' '.join(noted['command'][1:]), 'the training command names the repository'


def test(keep):
    with tempfile.TemporaryDirectory(prefix='i3nb-kernel-') as folder:
        box = Path(folder)
        try:
            meta = builder.build(box / 'push')
            notebook = box / 'push' / meta['code_file']
            check_push(box / 'push')
            make_data(box / 'read only' / 'input' / 'data set')
            read_only(box / 'read only' / 'input')
            say('first session: the kernel is lost while it watches')
            interrupted(notebook, box, 0.9)
            run = box / 'working' / 'i3-tiny'
            before = json.loads((run / 'launch.json').read_text())
            say('run again: it attaches')
            nb = execute(notebook, box, 0.9)
            assert 'attached to the training' in printed(nb), printed(nb)
            assert json.loads((run / 'launch.json').read_text()) == before, 'a second training was started'
            check_outputs(nb)
            check_html(nb, keep / 'first.html')
            check_files(run)
            check_library(box)
            assert sorted(p.name for p in (box / 'working').iterdir()) == ['i3-tiny'], 'files outside the run folder'
            first = rows_of(run)
            say(
                f'{len(first)} steps, loss {first[0]["loss"]:.2f} → {first[-1]["loss"]:.2f}; '
                f'one picture, no widget, {len(FILES)} files'
            )

            attached = box / 'read only' / 'input' / 'notebooks' / 'some-one' / 'i3 — version 1'
            writable(box / 'read only' / 'input')
            attached.parent.mkdir(parents=True)
            shutil.copytree(box / 'working', attached)
            shutil.rmtree(box / 'working')
            read_only(box / 'read only' / 'input')
            say('second session, with the output of the first attached')
            nb = execute(notebook, box, 0.4)
            check_outputs(nb)
            check_html(nb, keep / 'second.html')
            check_files(run)
            second = rows_of(run)
            assert 'going on after step' in printed(nb), printed(nb)
            assert [r['loss'] for r in second[: len(first)]] == [r['loss'] for r in first], (
                'the earlier steps are not kept'
            )
            assert len(second) > len(first) and [r['step'] for r in second] == list(range(1, len(second) + 1)), (
                'the run did not go on'
            )
            say(f'went on from step {len(first)} to {len(second)}')
        finally:
            writable(box / 'read only')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--keep',
        type=Path,
        default=ROOT / 'build' / 'kernel-test',
        help='where the two HTML pages are left, to be looked at',
    )
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    started = time.time()
    try:
        test(args.keep)
    except AssertionError as e:
        say(f'failed: {e}')
        return 1
    say(f'passed in {time.time() - started:.0f} s')


if __name__ == '__main__':
    sys.exit(main())
