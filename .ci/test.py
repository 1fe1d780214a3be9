"""Test the project: the files made from notebooks are in step, and every notebook runs from top to bottom.

Usage: python .ci/test.py [PATTERN ...] [--flags "slow"] [--jobs 2] [--timeout 600]
A notebook counts as passed only if at least one of its code cells ran and none failed; one whose cells are all
skipped counts as skipped. Nothing in the tree is changed. Exit status: 0 only if something passed and nothing failed."""
import argparse, configparser, filecmp, json, os, re, shutil, signal, subprocess, sys, tempfile, time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INI = configparser.ConfigParser(delimiters=['='])
INI.read(ROOT/'settings.ini', encoding='utf-8')
CFG = INI['DEFAULT']
NBS, LIB = ROOT/CFG['nbs_path'], ROOT/CFG['lib_path']


# --- checks: each returns a list of complaints ---

def made_files(root):
    "The notebooks and the modules below `root`, as nbdev finds them, by relative path"
    found = [*(root/CFG['nbs_path']).rglob('*.ipynb'), *(root/CFG['lib_path']).rglob('*.py')]
    names = [p.relative_to(root) for p in found]
    return sorted(n for n in names if not any(part[0] in '.' or part == '__pycache__' for part in n.parts))

def is_json(path):
    try: json.loads(path.read_text(encoding='utf-8'))
    except ValueError: return False
    return True

def check_export():
    "export and clean change nothing"
    broken = [f'{n} is not valid JSON: git checkout or mend it' for n in made_files(ROOT) if n.suffix == '.ipynb' and not is_json(ROOT/n)]
    if broken: return broken
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in [*made_files(ROOT), 'settings.ini', 'pyproject.toml']:
            # Modules are left out: export must make each of them again, so one without a notebook shows up.
            if Path(name).suffix == '.py' and Path(name).name != '__init__.py': continue
            (copy/name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT/name, copy/name)
        code = 'from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; nbdev_export(); nbdev_clean()'
        env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
        run = subprocess.run([sys.executable, '-c', code], cwd=copy, env=env, capture_output=True, text=True)
        if run.returncode: return ['nbdev_export or nbdev_clean fails:', *run.stderr.strip().splitlines()[-8:]]
        before, after = set(made_files(ROOT)), set(made_files(copy))
        bad = [f'{n} has no notebook that exports it: remove it, or write the notebook' for n in sorted(before-after)]
        bad += [f'{n} is missing: run `make export`' for n in sorted(after-before)]
        for name in sorted(before & after):
            if not filecmp.cmp(ROOT/name, copy/name, shallow=False):
                remedy = 'make clean-nbs' if name.suffix == '.ipynb' else 'make export'
                bad.append(f'{name} is out of step: run `{remedy}`')
        return bad

def check_readme():
    "README.md is what nbs/index.ipynb makes, and its links lead somewhere"
    run = subprocess.run([sys.executable, ROOT/'.ci'/'docs.py', 'readme', '--check'], capture_output=True, text=True)
    return (run.stdout+run.stderr).strip().splitlines()[-12:] if run.returncode else []

def check_settings():
    "[tool.nbdev] in pyproject.toml repeats settings.ini"
    try: import tomllib
    except ImportError: return []       # Python 3.10 has no reader for it
    block = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['tool']['nbdev']
    return [f'{k}: settings.ini says {CFG.get(k)}, pyproject.toml says {v}: make them equal'
            for k, v in block.items() if CFG.get(k) != str(v)]

CHECKS = [check_export, check_readme, check_settings]


# --- one notebook, in a process of its own ---

def run_notebook(path, flags, report):
    "Run `path` as nbdev_test does and write to `report` what happened"
    import nbdev.test
    seen = dict(ran=0, cell=None, source='', said=[])
    class CountingShell(nbdev.test.CaptureShell):
        "nbdev's shell, which also remembers the cell that it is in"
        def cell(self, cell, *args, **kwargs):
            if cell.cell_type == 'code' and cell.source.strip():
                seen.update(ran=seen['ran']+1, cell=f'{cell.idx_+1} (id {cell.get("id")})', source=cell.source)
            super().cell(cell, *args, **kwargs)
            seen['said'] += skips(cell)
    nbdev.test.CaptureShell = CountingShell
    started = time.time()
    passed, _ = nbdev.test.test_nb(path, skip_flags=CFG['tst_flags'].split(), force_flags=flags, basepath=ROOT)
    seen.update(passed=passed, seconds=time.time()-started)
    report.write_text(json.dumps(seen), encoding='utf-8')

def skips(cell):
    "The lines that `cell` printed to say that it left something out: those that start with `skipped`"
    streams = (''.join(o.get('text', '')) for o in cell.get('outputs') or [] if o.get('output_type') == 'stream')
    return [line for text in streams for line in text.splitlines() if line.lower().startswith('skipped')]

def code_cells(path):
    "How many code cells with code in them `path` has"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    lines = lambda c: ''.join(c['source']).splitlines()
    return sum(any(l.strip() and not l.startswith('#|') for l in lines(c)) for c in cells if c['cell_type'] == 'code')


# --- many notebooks ---

class Job:
    "A notebook being tested: `poll` gives None while it runs, then (verdict, seconds, words, details)"
    def __init__(self, path, args, folder):
        self.path, self.timeout, self.started = path, args.timeout, time.time()
        self.report, self.log = folder/f'{path.stem}.json', folder/f'{path.stem}.log'
        threads = max(1, (os.cpu_count() or 1)//args.jobs)
        env = {'OMP_NUM_THREADS': str(threads), 'TQDM_MININTERVAL': '5', **os.environ, 'PYTHONUNBUFFERED': '1'}
        command = [sys.executable, __file__, str(path), '--flags', ' '.join(args.flags), '--report', str(self.report)]
        with self.log.open('wb') as log:
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def stop(self):
        "End the notebook's process and whatever it started"
        try: os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        self.process.wait()

    def poll(self):
        seconds = time.time()-self.started
        if self.process.poll() is None:
            if seconds < self.timeout: return
            self.stop()
            return 'failed', seconds, f'still running after {self.timeout} s: stopped', ''
        self.stop()
        log = own_frames(self.log.read_text(encoding='utf-8', errors='replace'))
        if not self.report.exists():
            return 'failed', seconds, f'its process ended with status {self.process.returncode} before the notebook did', log
        r = json.loads(self.report.read_text(encoding='utf-8'))
        skipped = code_cells(self.path)-r['ran']
        if not r['passed']: return 'failed', seconds, f'cell {r["cell"]} raises', f'{r["source"]}\n{"-"*75}\n{log}'
        if not r['ran']: return 'skipped', seconds, 'no code cell to run', ''
        return 'passed', seconds, f'{r["ran"]} cells'+(f', {skipped} skipped' if skipped > 0 else ''), '\n'.join(r['said'])

def own_frames(log):
    "The `log` without those lines of a traceback that are about the machinery that runs notebooks"
    frame = r'  File ".*/(?:nbdev|execnb|IPython)/[^\n]*\n(?:    [^\n]*\n)*'
    return re.sub(frame, '', log)

class Board:
    "Prints verdicts as they come and counts them"
    def __init__(self): self.counts, self.failures, self.tty = dict(passed=0, failed=0, skipped=0), [], sys.stdout.isatty()
    def show(self, verdict, name, seconds, words, details=''):
        self.counts[verdict] += 1
        print(f'{verdict:8}{name:36}{seconds:7.1f} s  {words}', flush=True)
        if details: print('\n'.join('    '+line for line in shorten(details)), flush=True)
        if verdict == 'failed': self.failures.append(name)
    def live(self, words):
        "One line that changes in place, on a terminal only"
        if self.tty: print(f'\r\033[K{words}', end='', flush=True)
    def close(self, seconds):
        "The closing lines; the exit status"
        if self.failures: print('\nfailed: '+', '.join(self.failures))
        print(f'\n{seconds:.0f} seconds in all')
        c = self.counts
        print(f'{c["passed"]} passed, {c["failed"]} failed'+(f', {c["skipped"]} skipped' if c['skipped'] else ''), flush=True)
        return 0 if c['passed'] and not c['failed'] else 1

def shorten(text, head=14, tail=26):
    "The first and the last lines of `text`"
    lines = text.rstrip().splitlines()
    return lines if len(lines) <= head+tail else lines[:head]+[f'... {len(lines)-head-tail} lines ...']+lines[-tail:]

def run_checks(board):
    for check in CHECKS:
        board.live(check.__doc__)
        started = time.time()
        complaints = check()
        board.live('')
        board.show('failed' if complaints else 'passed', check.__name__, time.time()-started, check.__doc__, '\n'.join(complaints))

def run_notebooks(paths, args, board):
    waiting, running, started, total = deque(paths), [], time.time(), len(paths)
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < args.jobs: running.append(Job(waiting.popleft(), args, make_folder(folder, len(waiting))))
                for job in list(running):
                    outcome = job.poll()
                    if outcome is None: continue
                    running.remove(job); board.live('')
                    board.show(outcome[0], str(job.path.relative_to(NBS).with_suffix('')), *outcome[1:])
                now = ', '.join(f'{j.path.stem} {time.time()-j.started:.0f} s' for j in running)
                board.live(f'{total-len(waiting)-len(running)} of {total} done, running {now}')
                time.sleep(.1)
        finally:
            for job in running: job.stop()
            board.live('')

def make_folder(folder, number):
    "A folder of its own for each notebook's report: two may have the same name"
    path = Path(folder)/str(number)
    path.mkdir()
    return path

def find_notebooks(patterns):
    "The notebooks nbdev would test, in reading order, experiments last; with `patterns`, those whose path has one of them"
    names = [n for n in made_files(ROOT) if n.suffix == '.ipynb' and not any(p[0] in '._' for p in n.parts)]
    names = [n for n in names if not patterns or any(p in str(n) for p in patterns)]
    return [ROOT/n for n in sorted(names, key=lambda n: (len(n.parts), str(n)))]

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('patterns', nargs='*', help='test only notebooks whose path has one of these in it (and no check)')
    parser.add_argument('--flags', default='', help='directives to run that are else skipped, e.g. "slow"', type=str.split)
    parser.add_argument('--jobs', default=min(2, os.cpu_count() or 1), type=int, help='notebooks at a time')
    parser.add_argument('--timeout', default=600, type=int, help='seconds that one notebook may take')
    parser.add_argument('--report', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.report: return run_notebook(Path(args.patterns[0]), args.flags, args.report)
    board, started, paths = Board(), time.time(), find_notebooks(args.patterns)
    if not args.patterns: run_checks(board)
    if paths: run_notebooks(paths, args, board)
    else: board.show('failed', 'notebooks', 0, 'no notebook matches '+' '.join(args.patterns) if args.patterns else 'there is none')
    return board.close(time.time()-started)

if __name__ == '__main__':
    try: sys.exit(main())
    except KeyboardInterrupt: sys.exit('\ninterrupted: no verdict')
