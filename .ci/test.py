"""Test the project: the files made from notebooks are in step, and every notebook runs from top to bottom.

Usage: python .ci/test.py [PATTERN ...] [--flags "slow"] [--jobs 2] [--timeout 600] [--python PATH]
Times are processor time, of a notebook and of all processes that it starts, so a busy or slow machine is given the
hours that it needs; only a notebook that computes nothing for long is stopped by the clock. A notebook counts as passed
only if at least one of its code cells ran and none failed; one whose cells are all skipped counts as skipped.
A cell must print what is stored below it, unless it has the directive `#| varies`: in nbs/experiments/ to the letter,
elsewhere in the same words, as numbers may depend on the machine, and only where something is stored and no cell so far
has said that it skips something, for instance because this machine has no compiler.
`--python` runs the notebooks in another environment (.ci/versions.sh makes some). Nothing in the tree is changed. Exit
status: 0 only if something passed and nothing failed."""

import argparse
import atexit
import configparser
import difflib
import filecmp
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from pathlib import Path
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the library beside this script

from i3nb.base.identity import processor_seconds  # noqa: E402

INI = configparser.ConfigParser(delimiters=['='])
INI.read(ROOT / 'settings.ini', encoding='utf-8')
CFG = INI['DEFAULT']
NBS, LIB = ROOT / CFG['nbs_path'], ROOT / CFG['lib_path']
DRAWN = NBS / 'experiments'  # its notebooks are drawn from files, so they print the same each time
NUMBER = re.compile(r'\b[0-9a-f]{8,}\b|[-+]?\d[\d.,:]*(?:e[-+]?\d+)?|\b(?:nan|inf)\b')  # or a checksum


# --- checks: each returns a list of complaints ---


def made_files(root):
    "The notebooks and the modules below `root`, as nbdev finds them, by relative path"
    found = [*(root / CFG['nbs_path']).rglob('*.ipynb'), *(root / CFG['lib_path']).rglob('*.py')]
    names = [p.relative_to(root) for p in found]
    return sorted(n for n in names if not any(part[0] in '.' or part == '__pycache__' for part in n.parts))


def is_json(path):
    try:
        json.loads(path.read_text(encoding='utf-8'))
    except ValueError:
        return False
    return True


def check_export():
    "export and clean change nothing"
    broken = [
        f'{n} is not valid JSON: git checkout or mend it'
        for n in made_files(ROOT)
        if n.suffix == '.ipynb' and not is_json(ROOT / n)
    ]
    if broken:
        return broken
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in [*made_files(ROOT), 'settings.ini', 'pyproject.toml']:
            # Modules are left out: export must make each of them again, so one without a notebook shows up.
            if Path(name).suffix == '.py' and Path(name).name != '__init__.py':
                continue
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
        code = 'import nbdev.clean, nbdev.doclinks; nbdev.doclinks.nbdev_export(); nbdev.clean.nbdev_clean()'
        env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
        run = subprocess.run([sys.executable, '-c', code], cwd=copy, env=env, capture_output=True, text=True)
        if run.returncode:
            return ['nbdev_export or nbdev_clean fails:', *run.stderr.strip().splitlines()[-8:]]
        before, after = set(made_files(ROOT)), set(made_files(copy))
        bad = [f'{n} has no notebook that exports it: remove it, or write the notebook' for n in sorted(before - after)]
        bad += [f'{n} is missing: run `make export`' for n in sorted(after - before)]
        for name in sorted(before & after):
            if not filecmp.cmp(ROOT / name, copy / name, shallow=False):
                remedy = 'make clean-nbs' if name.suffix == '.ipynb' else 'make export'
                bad.append(f'{name} is out of step: run `{remedy}`')
        return bad


def check_readme():
    "README.md is what nbs/index.ipynb makes, and its links lead somewhere"
    run = subprocess.run(
        [sys.executable, ROOT / '.ci' / 'docs.py', 'readme', '--check'], capture_output=True, text=True
    )
    return (run.stdout + run.stderr).strip().splitlines()[-12:] if run.returncode else []


def check_settings():
    "[tool.nbdev] in pyproject.toml repeats settings.ini"
    try:
        import tomllib
    except ImportError:
        return []  # Python 3.10 has no reader for it
    block = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['tool']['nbdev']
    return [
        f'{k}: settings.ini says {CFG.get(k)}, pyproject.toml says {v}: make them equal'
        for k, v in block.items()
        if CFG.get(k) != str(v)
    ]


def complaints_of(*command) -> list:
    "What a checking tool has to say, or nothing where it is content"
    run = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    return (run.stdout + run.stderr).strip().splitlines()[-40:] if run.returncode else []


def check_style():
    "ruff is content with notebooks and scripts (`make format` mends most of it)"
    targets = [CFG['nbs_path'], '.ci', 'kaggle', 'setup.py']
    check = '-m', 'ruff', 'check', '--quiet', '--output-format', 'concise'
    layout = complaints_of('-m', 'ruff', 'format', '--check', '--quiet', *targets)
    alone = complaints_of(*check, '--isolated', '--select', 'F821', CFG['lib_path'])  # names that only a notebook has
    return layout + complaints_of(*check, *targets) + alone


def check_imports():
    "Dependencies point one way: see [tool.importlinter] in pyproject.toml"
    return complaints_of('-c', 'import importlinter.cli; importlinter.cli.lint_imports_command([])')


def check_house():
    "The rules of .ci/house.py: private names, hidden imports, long calls, functions and modules, links, figures, sizes"
    return complaints_of('.ci/house.py')


CHECKS = [check_export, check_readme, check_settings, check_style, check_imports, check_house]


# --- one notebook, in a process of its own ---


def run_notebook(path, flags, report):
    "Run `path` as nbdev_test does, without nbdev, which knows few versions of its companions; `report` tells the end"
    from IPython.utils.capture import capture_output

    os.environ['IN_TEST'] = '1'
    os.chdir(path.parent)
    sys.path[:0] = [str(path.parent), str(ROOT)]
    shell = quiet_shell()
    left_out = set(CFG['tst_flags'].split()) - set(flags)
    seen = dict(ran=0, cell=None, source='', said=[], passed=True)
    for number, cell in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells'], 1):
        source, words = ''.join(cell['source']), directives(cell)
        if not has_code(cell) or left_out & set(words) or words.get('eval') == 'false':
            continue
        seen.update(ran=seen['ran'] + 1, cell=f'{number} (id {cell.get("id")})', source=source)
        report.with_suffix('.cell').write_text(seen['cell'], encoding='utf-8')
        with capture_output() as out:
            result = shell.run_cell(source)
        seen['said'] += [line for line in out.stdout.splitlines() if line.lower().startswith('skipped')]
        drawn = DRAWN in path.parents
        error = result.error_before_exec or result.error_in_exec
        if error:
            print(''.join(traceback.format_exception(type(error), error, error.__traceback__)), file=sys.stderr)
        elif 'varies' not in words and (drawn or not seen['said']):
            error = difference(told(cell), out.stdout + markdown(result.result), exact=drawn)
            print(error, end='', file=sys.stderr)
        if error:
            seen['passed'] = False
            break
    seen['seconds'] = sum(os.times()[:4])
    report.write_text(json.dumps(seen), encoding='utf-8')


def quiet_shell():
    "A shell that runs cells and shows nothing by itself"
    from IPython.core.displayhook import DisplayHook
    from IPython.core.interactiveshell import InteractiveShell

    class Hook(DisplayHook):
        def __call__(self, result=None):
            if result is not None and self.exec_result is not None:
                self.exec_result.result = result

    class Shell(InteractiveShell):
        displayhook_class = Hook

        def enable_gui(self, gui=None):
            "There is no window: plots go to the cell's output"

    shell = Shell.instance()
    shell.history_manager.enabled = False
    shell.enable_matplotlib('inline')
    return shell


def told(cell):
    "The text that is stored below `cell`: what it printed, and its result if that is Markdown"
    outputs = cell.get('outputs', [])
    printed = [o['text'] for o in outputs if o.get('name') == 'stdout']
    return ''.join(map(''.join, printed + [o['data'].get('text/markdown', '') for o in outputs if 'data' in o]))


def markdown(result):
    "A cell's result, if it is Markdown"
    return getattr(result, '_repr_markdown_', str)() or '' if result is not None else ''


def words_of(text):
    "The words of a text, with 0 in place of each number"
    return NUMBER.sub('0', text).split()


def difference(stored, seen, exact):
    "Where two texts differ; if they need not be `exact`, only in words, and only if something is stored"
    if not exact and (not stored or words_of(stored) == words_of(seen)):
        return ''
    texts = (text.strip().splitlines(keepends=True) for text in (stored, seen))
    return ''.join(itertools.islice(difflib.unified_diff(*texts, 'stored', 'seen', n=1), 20))


def directives(cell):
    "What the lines `#| word: value` at the head of `cell` say"
    head = itertools.takewhile(lambda line: line.startswith('#|'), ''.join(cell['source']).strip().splitlines())
    pairs = (line[2:].strip().partition(':') for line in head)
    return {(word.split() or [''])[0]: value.strip().lower() for word, _, value in pairs}


def has_code(cell):
    "Whether `cell` has something to run besides directives"
    return cell['cell_type'] == 'code' and any(
        line.strip() and not line.startswith('#|') for line in ''.join(cell['source']).splitlines()
    )


def code_cells(path):
    "How many code cells with code in them `path` has"
    return sum(map(has_code, json.loads(path.read_text(encoding='utf-8'))['cells']))


# --- many notebooks ---


class Patience:
    "How long a process may go on: `over(seconds)` is told its processor time and gives the reason to stop it, or None"

    IDLE, SLOWEST = 300, 10  # seconds without computing; how many times as long as its limit one may take by the clock

    def __init__(self, limit):
        self.limit, self.began = limit, time.monotonic()
        self.most, self.last, self.looked, self.idle = 0.0, 0.0, self.began, 0.0

    def over(self, seconds):
        now = time.monotonic()
        passed = min(now - self.looked, 1.0)  # the machine may have been asleep
        self.idle = 0.0 if seconds - self.last > 0.01 * passed else self.idle + passed
        self.most, self.last, self.looked = max(seconds, self.most), seconds, now
        if self.most > self.limit:
            return f'more than {self.limit} s of processor time'
        if self.idle > self.IDLE:
            return f'nothing computed for {self.IDLE} s'
        return 'still running' if now - self.began > self.SLOWEST * self.limit else None


FORKS = None  # elsewhere than on Linux, a process that has loaded libraries may not be copied
if sys.platform == 'linux':
    FORKS = multiprocessing.get_context('forkserver')
    FORKS.set_forkserver_preload(['IPython.core.interactiveshell', 'matplotlib.figure', 'torch'])


class Forked:
    """A notebook in a copy of a process that has only imported some libraries, which takes seconds

    It offers the part of the interface of `subprocess.Popen` that is used here."""

    def __init__(self, *args):
        self.process = FORKS.Process(target=run_alone, args=args)
        self.process.start()
        self.pid, self.wait = self.process.pid, self.process.join

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode


def run_alone(path, flags, report, log):
    "`run_notebook` in a session of its own, whose output goes to a file"
    os.setsid()
    with open(os.devnull, 'rb') as nothing, log.open('wb') as out:
        for new, old in ((nothing, 0), (out, 1), (out, 2)):
            os.dup2(new.fileno(), old)
    sys.argv = [str(path)]
    run_notebook(path, flags, report)
    atexit._run_exitfuncs()  # a copied process would end without them


class Job:
    "A notebook being tested: `poll` gives None while it runs, then (verdict, seconds, words, details)"

    def __init__(self, path, args, folder):
        self.path, self.patience, self.next_look = path, Patience(args.timeout), 0.0
        self.report, self.log = folder / f'{path.stem}.json', folder / f'{path.stem}.log'
        if FORKS and args.python == sys.executable:
            self.process = Forked(path, args.flags, self.report, self.log)
            return
        command = [args.python, __file__, str(path), '--flags', ' '.join(args.flags), '--report', str(self.report)]
        with self.log.open('wb') as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def cell(self):
        "The cell that is running, or was the last to"
        try:
            return self.report.with_suffix('.cell').read_text(encoding='utf-8')
        except OSError:
            return 'none yet'

    def impatience(self):
        "Why the notebook must not go on, or None; asked once a second, as it looks at all its processes"
        if time.monotonic() < self.next_look:
            return None
        self.next_look = time.monotonic() + 1
        return self.patience.over(processor_seconds(self.process.pid))

    def stop(self):
        "End the notebook's process and whatever it started"
        left = []
        try:
            left = psutil.Process(self.process.pid).children(recursive=True)  # some have a session of their own
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, psutil.Error):
            pass
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                pass
        self.process.wait()

    def poll(self):
        if self.process.poll() is None:
            if not (why := self.impatience()):
                return
            self.stop()
            return 'failed', self.patience.most, f'stopped in cell {self.cell}: {why}', ''
        self.stop()
        log = own_frames(self.log.read_text(encoding='utf-8', errors='replace'))
        if not self.report.exists():
            status = self.process.returncode
            why = f'its process ended with status {status} in cell {self.cell}'
            return 'failed', self.patience.most, why, log
        r = json.loads(self.report.read_text(encoding='utf-8'))
        seconds = r['seconds']
        skipped = code_cells(self.path) - r['ran']
        if not r['passed']:
            return 'failed', seconds, f'cell {r["cell"]} raises', f'{r["source"]}\n{"-" * 75}\n{log}'
        if not r['ran']:
            return 'skipped', seconds, 'no code cell to run', ''
        return (
            'passed',
            seconds,
            f'{r["ran"]} cells' + (f', {skipped} skipped' if skipped > 0 else ''),
            '\n'.join(r['said']),
        )


def own_frames(log):
    "The `log` without those lines of a traceback that are about the machinery that runs notebooks"
    frame = r'  File ".*/IPython/[^\n]*\n(?:    [^\n]*\n)*'
    return re.sub(frame, '', log)


class Board:
    "Prints verdicts as they come and counts them"

    def __init__(self):
        self.counts, self.failures, self.tty = dict(passed=0, failed=0, skipped=0), [], sys.stdout.isatty()

    def show(self, verdict, name, seconds, words, details=''):
        self.counts[verdict] += 1
        print(f'{verdict:8}{name:36}{seconds:7.1f} s  {words}', flush=True)
        if details:
            print('\n'.join('    ' + line for line in shorten(details)), flush=True)
        if verdict == 'failed':
            self.failures.append(name)

    def live(self, words):
        "One line that changes in place, on a terminal only"
        if self.tty:
            print(f'\r\033[K{words}', end='', flush=True)

    def close(self, seconds):
        "The closing lines; the exit status"
        if self.failures:
            print('\nfailed: ' + ', '.join(self.failures))
        print(f'\n{seconds:.0f} seconds in all, by the clock')
        c = self.counts
        print(
            f'{c["passed"]} passed, {c["failed"]} failed' + (f', {c["skipped"]} skipped' if c['skipped'] else ''),
            flush=True,
        )
        return 0 if c['passed'] and not c['failed'] else 1


def shorten(text, head=14, tail=26):
    "The first and the last lines of `text`"
    lines = text.rstrip().splitlines()
    return (
        lines
        if len(lines) <= head + tail
        else lines[:head] + [f'... {len(lines) - head - tail} lines ...'] + lines[-tail:]
    )


def run_checks(board):
    for check in CHECKS:
        board.live(check.__doc__)
        started = time.time()
        complaints = check()
        board.live('')
        board.show(
            'failed' if complaints else 'passed',
            check.__name__,
            time.time() - started,
            check.__doc__,
            '\n'.join(complaints),
        )


def run_notebooks(paths, args, board):
    waiting, running, total = deque(paths), [], len(paths)
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < args.jobs:
                    running.append(Job(waiting.popleft(), args, make_folder(folder, len(waiting))))
                for job in list(running):
                    outcome = job.poll()
                    if outcome is None:
                        continue
                    running.remove(job)
                    board.live('')
                    board.show(outcome[0], str(job.path.relative_to(NBS).with_suffix('')), *outcome[1:])
                now = ', '.join(f'{j.path.stem} {j.patience.most:.0f} s' for j in running)
                board.live(f'{total - len(waiting) - len(running)} of {total} done, running {now}')
                time.sleep(0.1)
        finally:
            for job in running:
                job.stop()
            board.live('')


def set_environment(jobs):
    "What notebooks and their processes find in the environment, unless it is set already"
    threads = max(1, (os.cpu_count() or 1) // jobs)
    os.environ.update({'OMP_NUM_THREADS': str(threads), 'TQDM_MININTERVAL': '5', **os.environ, 'PYTHONUNBUFFERED': '1'})


def make_folder(folder, number):
    "A folder of its own for each notebook's report: two may have the same name"
    path = Path(folder) / str(number)
    path.mkdir()
    return path


def find_notebooks(patterns):
    "The notebooks nbdev would test, chapters first; with `patterns`, those whose path has one of them"
    names = [n for n in made_files(ROOT) if n.suffix == '.ipynb' and not any(p[0] in '._' for p in n.parts)]
    names = [n for n in names if not patterns or any(p in str(n) for p in patterns)]
    return [ROOT / n for n in sorted(names, key=lambda n: (len(n.parts), str(n)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'patterns', nargs='*', help='test only notebooks whose path has one of these in it (and no check)'
    )
    parser.add_argument(
        '--flags', default='', help='directives to run that are else skipped, e.g. "slow"', type=str.split
    )
    parser.add_argument('--jobs', default=min(2, os.cpu_count() or 1), type=int, help='notebooks at a time')
    parser.add_argument('--timeout', default=600, type=int, help='seconds of processor time that one notebook may take')
    parser.add_argument(
        '--python',
        default=sys.executable,
        type=os.path.abspath,
        help="the Python that runs the notebooks; it needs the library's requirements and no nbdev",
    )
    parser.add_argument('--checks', action='store_true', help='only the checks, which take seconds; no notebook')
    parser.add_argument('--report', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.report:
        return run_notebook(Path(args.patterns[0]), args.flags, args.report)
    board, started, paths = Board(), time.time(), find_notebooks(args.patterns)
    if not args.patterns:
        run_checks(board)
    if args.checks:
        return board.close(time.time() - started)
    if paths:
        set_environment(args.jobs)
        run_notebooks(paths, args, board)
    else:
        board.show(
            'failed',
            'notebooks',
            0,
            'no notebook matches ' + ' '.join(args.patterns) if args.patterns else 'there is none',
        )
    return board.close(time.time() - started)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit('\ninterrupted: no verdict')
