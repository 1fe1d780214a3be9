"""Train on several machines, and disturb them: hosts are network namespaces of this one, joined by a virtual switch.

Usage: python .ci/hosts.py [--hosts 2] [--only kill,cut,slow,leave,lose,first] [--shard] [--report FILE]
Each host runs `torchrun` with the commands of the guide. In each scenario a host is killed, cut off from the others,
slowed down, or lost for good while training goes on; the losses have to be those of a run that nobody disturbed.
It needs root and `ip` (of iproute2); without them it ends with status 77 and says why."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SWITCH, NET = 'i3switch', '10.213.97'
SKIPPED = 77
SMALL = (
    '--device cpu --preset i3-tiny --vocab_size 600 --seq_len 64 --batch_size 12 --d_model 64 --n_heads 2 --d_inner 64'
)
PACE = '--d_ff 128 --precision fp32 --muon_precision fp32 --iters {steps} --checkpoint_every 10 --eval_every 0'
OF_USERS = {
    'GLOO_SOCKET_IFNAME': 'eth0',
    'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1',
    'I3NB_TIMEOUT': '15',
}  # see the guide
LIMIT = 400  # seconds for a scenario
CHOICES = 0.01  # by which a loss may differ with another number of processes: rounding can change a token's expert


def run(*command, check: bool = True):
    "Run a command of the system."
    return subprocess.run(list(map(str, command)), check=check, capture_output=True, text=True)


class Host:
    "A network namespace with one card, `eth0`, that a cable joins to the switch."

    def __init__(self, number: int):
        self.number, self.name, self.plug = number, f'i3host{number}', f'i3plug{number}'
        self.address, self.process = f'{NET}.{number + 1}', None

    def build(self):
        "Make the namespace and plug its cable in."
        run('ip', 'netns', 'add', self.name)
        run('ip', 'link', 'add', self.plug, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', self.name)
        run('ip', 'link', 'set', self.plug, 'master', SWITCH, 'up')
        run('ip', '-n', self.name, 'address', 'add', f'{self.address}/24', 'dev', 'eth0')
        run('ip', '-n', self.name, 'link', 'set', 'eth0', 'up')
        run('ip', '-n', self.name, 'link', 'set', 'lo', 'up')

    def remove(self):
        "Undo `build`, whatever of it was done."
        self.kill()
        run('ip', 'netns', 'delete', self.name, check=False)
        run('ip', 'link', 'delete', self.plug, check=False)

    def start(self, command: list, log: Path):
        "Start a command in the namespace, as a group of processes of its own."
        out = log.open('a')
        env = {**os.environ, **OF_USERS, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
        inside = ['ip', 'netns', 'exec', self.name, *map(str, command)]
        self.process = subprocess.Popen(inside, stdout=out, stderr=out, env=env, start_new_session=True)

    def kill(self):
        "End all processes of the host at once, as when its power fails."
        for pid in run('ip', 'netns', 'pids', self.name, check=False).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if self.process:
            self.process.wait()

    def unplug(self):
        "Cut the cable."
        run('ip', 'link', 'set', self.plug, 'down')

    def plug_in(self):
        "Mend the cable."
        run('ip', 'link', 'set', self.plug, 'up')

    def slow(self, begin: bool):
        "Let the host only send two megabits per second, or as much as it can."
        narrow = ['add', 'dev', 'eth0', 'root', 'tbf', 'rate', '2mbit', 'burst', '32kbit', 'latency', '400ms']
        run('ip', 'netns', 'exec', self.name, 'tc', 'qdisc', *(narrow if begin else ['del', 'dev', 'eth0', 'root']))


class Network:
    "Hosts at one switch."

    def __init__(self, count: int):
        self.hosts = [Host(i) for i in range(count)]

    def __enter__(self):
        self.remove()
        try:
            run('ip', 'link', 'add', SWITCH, 'type', 'bridge')
            run('ip', 'link', 'set', SWITCH, 'up')
            for host in self.hosts:
                host.build()
        except subprocess.CalledProcessError:
            self.remove()
            raise
        return self

    def __exit__(self, *error):
        self.remove()

    def restore(self):
        "End what still runs, and mend all cables."
        for host in self.hosts:
            host.kill()
            host.plug_in()

    def remove(self):
        "Remove hosts and switch, also those of an earlier run of this script that was killed."
        for host in self.hosts:
            host.remove()
        run('ip', 'link', 'delete', SWITCH, check=False)


def rows(folder: Path) -> list:
    "The rows of metrics that a run has written so far."
    try:
        lines = (folder / 'metrics.jsonl').read_text().splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith('}')]


class Scenario:
    "A run on all hosts of a network, in a folder that they share."

    def __init__(self, network: Network, args, name: str):
        self.network, self.args, self.name = network, args, name
        self.folder, self.log = args.folder / name, args.folder / f'{name}-{{}}.log'
        self.began = time.monotonic()

    def command(self, host: Host) -> list:
        "What a user types on a host."
        least = 1 if self.name in FOR_GOOD else len(self.network.hosts)
        meeting = f'{self.network.hosts[0].address}:29400'
        launcher = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--nproc-per-node=1']
        launcher += [f'--nnodes={least}:{len(self.network.hosts)}', '--max-restarts=5', '--rdzv-backend=c10d']
        launcher += [f'--rdzv-endpoint={meeting}', f'--rdzv-id={self.name}', f'--local-addr={host.address}']
        launcher += [f'--rdzv-conf=is_host={int(host.number == 0)}']  # which host has the store
        sizes = [*SMALL.split(), *PACE.format(steps=self.args.steps).split(), *['--shard'] * self.args.shard]
        where = ['--data', 'synthetic:400', '--out', self.folder, '--cache', self.args.folder / 'cache']
        return [*launcher, self.args.folder / 'train.py', *sizes, *where]

    def start(self, host: Host):
        "Start the command on a host, or start it again."
        host.start(self.command(host), Path(str(self.log).format(host.number)))

    def until(self, condition, what: str):
        "Wait for a condition."
        while not condition():
            failed = [h.name for h in self.network.hosts if h.process and (h.process.poll() or 0) > 0]
            if failed:
                raise SystemExit(f'{self.name}: {", ".join(failed)} failed; see {self.args.folder}/{self.name}-*.log')
            if time.monotonic() > self.began + LIMIT:
                raise TimeoutError(f'{self.name}: {what} did not come within {LIMIT} s')
            time.sleep(0.1)

    def until_step(self, step: int):
        "Wait until the run has done a step."
        self.until(lambda: len(rows(self.folder)) >= step, f'step {step}')

    def until_end(self, hosts: list) -> list:
        "Wait until the commands on some hosts have ended; their statuses."
        self.until(lambda: all(host.process.poll() is not None for host in hosts), 'the end')
        return [host.process.returncode for host in hosts]


def undisturbed(s: Scenario):
    "Nothing happens."


def kill(s: Scenario):
    "The last host loses its power, and comes back after ten seconds."
    host = s.network.hosts[-1]
    host.kill()
    time.sleep(10)
    s.start(host)


def cut(s: Scenario):
    "The cable of the last host is cut for ten seconds."
    host = s.network.hosts[-1]
    host.unplug()
    time.sleep(10)
    host.plug_in()


def slow(s: Scenario):
    "The last host can only send two megabits per second, for ten seconds."
    host = s.network.hosts[-1]
    host.slow(True)
    time.sleep(10)
    host.slow(False)


def leave(s: Scenario):
    "The last host loses its power and does not come back: the others go on without it."
    s.network.hosts[-1].kill()


def lose(s: Scenario):
    "The cable of the last host is cut for good: nobody hears that its connections have ended."
    s.network.hosts[-1].unplug()


def first(s: Scenario):
    "The first host, where all meet, loses its power: the others end, and the user starts all of them again."
    s.network.hosts[0].kill()
    for host in s.network.hosts[1:]:
        host.process.wait(LIMIT)
    for host in s.network.hosts:
        s.start(host)


SCENARIOS = {f.__name__: f for f in (kill, cut, slow, leave, lose, first)}
FOR_GOOD = ('leave', 'lose')  # the others go on without the last host


def perform(network: Network, args, name: str, disturb) -> tuple:
    "Train while something happens; the rows of metrics, and the seconds that it took."
    s = Scenario(network, args, name)
    for host in network.hosts:
        s.start(host)
    s.until_step(args.steps // 3)
    disturb(s)
    staying = network.hosts[:-1] if name in FOR_GOOD else network.hosts
    statuses = s.until_end(staying)
    network.restore()
    found = rows(s.folder)
    s.seconds = round(time.monotonic() - s.began)
    print(f'{name}: {len(found)} steps in {s.seconds} s, statuses {statuses}', flush=True)
    if any(statuses) or len(found) != args.steps:
        raise SystemExit(f'{name}: not finished; see {args.folder}/{name}-*.log')
    return found, s.seconds


def worst(expected: list, found: list) -> float:
    "The largest difference between the losses of two runs."
    return max(abs(a['loss'] - b['loss']) for a, b in zip(expected, found))


def why_not() -> str:
    "What this script needs and does not find."
    if os.geteuid():
        return 'it needs root'
    if not shutil.which('ip') or not shutil.which('tc'):
        return 'it needs ip and tc (package iproute2)'
    try:
        with Network(2):
            return ''
    except subprocess.CalledProcessError as e:
        return f'this machine gives no network of its own ({e.stderr.strip() or e})'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--hosts', type=int, default=2)
    parser.add_argument('--only', default=','.join(SCENARIOS))
    parser.add_argument('--folder', type=Path, default=ROOT / 'build' / 'hosts')
    parser.add_argument('--steps', type=int, default=150)
    parser.add_argument('--shard', action='store_true')
    parser.add_argument('--report', type=Path, help='append a line of JSON for each scenario to this file')
    args = parser.parse_args()
    if unknown := set(args.only.split(',')) - set(SCENARIOS):
        parser.error(f'--only {",".join(unknown)}: choose of {",".join(SCENARIOS)}')
    if why := why_not():
        print(f'skipped: {why}')
        return SKIPPED
    args.folder = args.folder.resolve()
    if args.folder.exists() and not (args.folder / 'train.py').exists():
        parser.error(f'--folder {args.folder} holds something else; name another')
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    (args.folder / 'train.py').write_text('from i3nb.commands import i3nb_train\ni3nb_train()\n')
    with Network(args.hosts) as network:
        expected, alone = perform(network, args, 'undisturbed', undisturbed)
        for name in args.only.split(','):
            found, seconds = perform(network, args, name, SCENARIOS[name])
            difference = worst(expected, found)
            print(f'{name}: largest difference of the losses {difference:.1e}', flush=True)
            if args.report:
                facts = dict(scenario=name, hosts=args.hosts, shard=args.shard, steps=args.steps)
                with args.report.open('a') as f:
                    f.write(json.dumps(dict(facts, seconds=seconds, undisturbed=alone, difference=difference)) + '\n')
            if difference > (CHOICES if name in FOR_GOOD else 0):
                return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
