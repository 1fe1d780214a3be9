"""Trains `i3-tiny` with and without each of its parts, and appends a line of figures for each run.

python ablate.py --variants base,no-gru --seeds 0,1,2 --batch_size 8 --data TRAIN --val VALID --out runs.jsonl

The options are those of ../search/search.py, which does the work; the variants are those of `variants_parts.py`, all
with a recipe that the search found good for such runs: a start from counts, a warm-up of 5 steps, and a rate that falls
in the last 60 % of the run."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'search'))

import search  # noqa: E402
from i3nb.counts import start_from_counts  # noqa: E402
from i3nb.optim import lr_scale  # noqa: E402


def from_counts(run):
    "Let the model begin as a bigram model."
    _, run.note['bigram_ppl'] = start_from_counts(run.model, run.data.train, run.data.weights, run.seed)


def common_recipe(run):
    "What all variants share."
    run.schedule = lambda progress, step: lr_scale(progress, step, 5, fall=0.6)
    run.after_build.append(from_counts)


if __name__ == '__main__':
    search.main(known=search.load_variants(HERE), before=common_recipe)
