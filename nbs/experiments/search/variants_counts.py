"""Variants of the search: where embedding and head start, and how loud the blocks are at first."""

import torch
from i3nb import counts


def _quiet(model, factor):
    "Scale what blocks add to the stream at the start."
    with torch.no_grad():
        for b in model.hybrid_layers:
            b.mixer.out_proj.weight.mul_(factor)
        for b in model.attn_layers:
            b.mixer.out.weight.mul_(factor)
        for b in model.blocks:
            b.moe.w2.mul_(factor)


def _start(run, quiet=1.0, steps=40, loud=1.0):
    "Begin as a bigram model."

    def begin(run):
        usual, counts.STEPS = counts.STEPS, steps
        try:
            table, ppl = counts.start_from_counts(run.model, run.data.train, run.data.weights, run.seed)
        finally:
            counts.STEPS = usual
        run.note.update(bigram_ppl=ppl, discount=table.discount)
        if quiet != 1:
            _quiet(run.model, quiet)
        with torch.no_grad():
            run.model.embed.weight *= loud  # which the norms take out again

    run.after_build.append(begin)


VARIANTS = {
    'counts': _start,
    'counts-sketch': lambda run: _start(run, steps=1),
    'counts-loud-3': lambda run: _start(run, loud=3.0),
    'counts-loud-6': lambda run: _start(run, loud=6.0),
    'counts-quiet-0': lambda run: _start(run, quiet=0.0),
    'counts-quiet-0.3': lambda run: _start(run, quiet=0.3),
    'quiet-0': lambda run: run.after_build.append(lambda run: _quiet(run.model, 0.0)),
}
