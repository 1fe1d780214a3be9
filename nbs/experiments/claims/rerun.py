"""Runs again what the figures of a claim, or of an experiment, came from.

python rerun.py                     lists the experiments
python rerun.py recipe-muon         runs one again, into ../../../runs/again/recipe-muon
python rerun.py 300m-linear-loss    runs all experiments again that this claim rests on
options: --seed N (default 1; the published runs have 0), --out FOLDER, --dry (only shows the commands)

Experiments are entries of commands.json, claims are those of claims.json. The data are the stories that i3nb finds as
its development sample (set I3NB_SAMPLE to their folder)."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from i3nb.data.sources import sample_data

CLAIMS = Path(__file__).resolve().parent
EXPERIMENTS = CLAIMS.parent
PREFIX = 'nbs/experiments/'
TEXTS = 'train', 'more', 'valid', 'valid_large'


def load() -> tuple:
    "The experiments by name, and for each claim the files that its figures came from."
    claims = json.loads((CLAIMS / 'claims.json').read_text())
    files = {c['id']: {f.removeprefix(PREFIX) for found in c['evidence'] for f in found['data']} for c in claims}
    return {e['name']: e for e in json.loads((CLAIMS / 'commands.json').read_text())}, files


def chosen(name: str) -> list:
    "The experiments of this name, or those that the claim of this name rests on."
    experiments, files = load()
    if name in experiments:
        return [experiments[name]]
    if name not in files:
        sys.exit(f'rerun: {name!r} is neither an experiment nor a claim; without a name, all experiments are listed')
    found = [e for e in experiments.values() if files[name] & set(e['files'])]
    return found or sys.exit(f'rerun: {name} rests on no run, but on cells of notebooks')


def commands(experiment: dict, seed: int, out: Path) -> list:
    "Its commands, each as a list of words."
    sample = sample_data()
    if not sample:
        sys.exit('rerun: the stories are not here; set I3NB_SAMPLE to the folder with train.jsonl and valid.jsonl')
    places = {name: shlex.quote(str(sample / f'{name}.jsonl')) for name in TEXTS}
    return [shlex.split(c.format(seed=seed, out=shlex.quote(str(out)), **places)) for c in experiment['commands']]


def took(experiment: dict) -> str:
    "How long it took, where that was recorded, and on which machine."
    minutes = experiment['minutes']
    return f'{minutes} minutes on {experiment["machine"]}' if minutes else f'on {experiment["machine"]}'


def run(experiment: dict, seed: int, out: Path, dry: bool) -> bool:
    "Run an experiment again; whether all went well."
    name = experiment['name']
    print(f'{name}: {took(experiment)}', flush=True)
    if not experiment['commands']:
        print(f'  cannot be run again by a command: {experiment["why"]}')
        return False
    if not dry:
        out.mkdir(parents=True, exist_ok=True)
    env = os.environ | dict(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]))
    for words in commands(experiment, seed, out):
        print('  ' + shlex.join(words), flush=True)
        if not dry and (status := subprocess.run(words, cwd=EXPERIMENTS, env=env).returncode):
            print(f'  it ended with status {status}')
            return False
    published = ', '.join(PREFIX + file for file in experiment['files'])
    print(f'  compare {out} with {published}')
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', nargs='?')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--out', type=Path)
    parser.add_argument('--dry', action='store_true')
    args = parser.parse_args()
    if not args.name:
        for e in load()[0].values():
            print(f'{e["name"]:18}{took(e)}: {", ".join(e["files"])}')
        return 0
    home = args.out or EXPERIMENTS.parent.parent / 'runs' / 'again'
    done = [run(e, args.seed, (home / e['name']).resolve(), args.dry) for e in chosen(args.name)]
    return 0 if all(done) else 1


if __name__ == '__main__':
    sys.exit(main())
