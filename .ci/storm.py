"""Kill `i3nb_train` with SIGKILL at chosen moments, give the same command again, compare with an undisturbed run.

Usage: python .ci/storm.py [--kills 50] [--seed 0] [--world 1] [--shard] [--folder build/storm] [--data synthetic:400]
With `--world 2` a process of `--processes 2`, or its launcher, is killed. Each run takes five to nine kills; further
runs follow until all kills are used up. Exit status: 0 only if every run came to the same rows of metrics, stories and
weights with nothing else left in its folder, and no command was refused."""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARGUMENTS = '--device cpu --precision fp32 --preset i3-tiny --vocab_size 1500 --iters 60 --batch_size 4 --seq_len 64'
PACE = '--checkpoint_every 7 --eval_every 10 --eval_docs 4'
OF_THE_MACHINE = ('elapsed', 'tokens_per', 'mem_', 'gpu_', 'energy', 'time', 'cpu')
MOMENTS = {  # what has just appeared, in the run folder or in the cache `../<run>-cache`; None: after some time
    'time': None,
    'preparing': 'cache/.build*',
    'saving': 'checkpoints/.saving-*',
    'renaming': 'checkpoints/step-*',
    'records': '.*.json*.*-*',
    'starting': 'run.json',
    'first row': 'metrics.jsonl',
    'ending': 'config.json',
    'drawing': 'plot.png',
}


def start(run: Path, args, log) -> subprocess.Popen:
    "Start the command for a run."
    program = 'from i3nb.commands import i3nb_train; i3nb_train()'
    script = args.folder / 'train.py'
    script.write_text(program)
    several = ['--processes', str(args.world)] if args.world > 1 else []
    several += ['--shard'] * args.shard
    where = ['--data', args.data, '--out', str(run), '--cache', f'{run}-cache']
    command = [sys.executable, str(script), *ARGUMENTS.split(), *PACE.split(), *where, *several]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', 'MPLBACKEND': 'Agg', 'PYTHONPATH': str(ROOT)}
    return subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)


def appeared(run: Path, moment: str) -> set:
    "What there is of a kind, each thing with its time."
    pattern = MOMENTS[moment]
    folder = run.with_name(f'{run.name}-cache') if pattern.startswith('cache/') else run
    found = set()
    for path in folder.glob(pattern.removeprefix('cache/')):
        try:
            found.add((path, path.stat().st_mtime_ns))
        except OSError:
            pass  # gone again
    return found


def wait_for_moment(process, run: Path, moment: str, limit: float, rng):
    "Wait until something of a kind appears, at most `limit` seconds; 'time' is a random part of it."
    until = time.monotonic() + (rng.uniform(0.2, limit) if moment == 'time' else 2 * limit)
    before = appeared(run, moment) if MOMENTS[moment] else set()
    skip = rng.randint(0, 3) if moment in ('saving', 'renaming', 'records') else 0
    while process.poll() is None and time.monotonic() < until:
        new = appeared(run, moment) - before if MOMENTS[moment] else set()
        if new and not skip:
            break
        skip, before = skip - bool(new), before | new
        time.sleep(0.0005)
    time.sleep(rng.choice((0, rng.uniform(0, 0.1))))


def children(pid: int) -> list:
    "The processes that a process has started, in the order of their start."
    try:
        return sorted(map(int, Path(f'/proc/{pid}/task/{pid}/children').read_text().split()))
    except OSError:
        return []


def kill(process, world: int, rng) -> str:
    "Kill the process, or with several one of them; then all have to end within a minute."
    victims = [process.pid, *children(process.pid)] if world > 1 else [process.pid]
    victim = rng.choice(victims)
    os.kill(victim, signal.SIGKILL)
    try:
        process.wait(60)
        time.sleep(0.5 if victim == process.pid and world > 1 else 0)
    finally:
        ranks = [pid for pid in victims[1:] if Path(f'/proc/{pid}').exists()]
        deadline = time.monotonic() + 60
        while ranks and time.monotonic() < deadline:
            time.sleep(0.1)
            ranks = [pid for pid in ranks if Path(f'/proc/{pid}').exists()]
        if ranks:
            os.killpg(process.pid, signal.SIGKILL)
            raise SystemExit(f'processes {ranks} still ran a minute after {victim} was killed')
    return 'the process' if world == 1 else 'the launcher' if victim == process.pid else 'a process'


def rows(path: Path) -> list:
    "The rows of a file, without what depends on the machine."
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(OF_THE_MACHINE)} for row in found]


def outcome(run: Path) -> dict:
    "What a run has come to."
    return dict(
        rows=rows(run / 'metrics.jsonl'),
        stories=rows(run / 'samples.jsonl'),
        weights=hashlib.sha256((run / 'model.safetensors').read_bytes()).hexdigest(),
        state=json.loads((run / 'run.json').read_text())['state'],
        files=sorted(str(p.relative_to(run)) for p in run.rglob('*')),
    )


def one_run(run: Path, args, limit: float, want: dict, kills: int, rng) -> bool:
    "A run with so many kills; whether it came to the same end."
    with open(f'{run}.log', 'ab') as log:
        for _ in range(kills):
            moment = rng.choice(list(MOMENTS))
            process = start(run, args, log)
            wait_for_moment(process, run, moment, limit, rng)
            if process.poll() is None:
                print(f'{run.name}: {kill(process, args.world, rng)} killed at {moment!r}', flush=True)
            elif process.returncode:
                print(f'{run.name}: refused with {process.returncode}, see {run}.log')
                return False
        if status := start(run, args, log).wait():
            print(f'{run.name}: ended with {status}, see {run}.log')
            return False
    got = outcome(run)
    for name in want:
        if got[name] != want[name]:
            differ = sorted(set(got[name]) ^ set(want[name])) if name == 'files' else ''
            print(f'{run.name}: {name} differ {differ}')
    return got == want


def main() -> int:
    "Storm until the kills are used up."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--shard', action='store_true')
    parser.add_argument('--world', type=int, default=1)
    parser.add_argument('--folder', type=Path, default=ROOT / 'build' / 'storm')
    parser.add_argument('--data', default='synthetic:400')
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    rng, began = random.Random(args.seed), time.monotonic()
    with open(args.folder / 'undisturbed.log', 'wb') as log:
        if start(args.folder / 'undisturbed', args, log).wait():
            raise SystemExit(f'the undisturbed run failed, see {log.name}')
    limit, want = time.monotonic() - began, outcome(args.folder / 'undisturbed')
    left, same, runs = args.kills, 0, 0
    while left > 0:
        kills = min(left, rng.randint(5, 9))
        same += one_run(args.folder / f'run-{runs}', args, limit, want, kills, rng)
        left, runs = left - kills, runs + 1
    print(f'{same} of {runs} runs came to the same end after {args.kills} chances to be killed')
    return 0 if same == runs else 1


if __name__ == '__main__':
    sys.exit(main())
