"""Variants that switch attention heads off, while the model trains or after it; for `ablate.py`."""

import torch
from i3nb.sparsity import ProgressiveSparsity

SHARES = 0.1, 0.3, 0.5


def sparse(share: float):
    "Switch off this share of the heads between the first fifth of the run and its last fifth."

    def variant(run):
        run.settings['sparsity'] = share
        run.after_step.append(lambda run: run.trainer.sparsity.step(run.progress))

    return variant


def prune_after(run):
    "Train all heads and watch their importance; at the end note what the model loses without some of them."

    def watch(run):
        run.watched = ProgressiveSparsity(run.model, final=0)

    def try_shares(run):
        if run.progress < 1 or 'pruned' in run.note:
            return
        run.note['pruned'] = {}
        generator = torch.Generator().manual_seed(run.seed)
        for share in SHARES:
            for how in ('importance', 'chance'):
                run.note['pruned'][f'{share} {how}'] = loss_without(run, share, how, generator)

    run.after_build.append(watch)
    run.after_step.append(lambda run: run.watched.step())
    run.before_eval.append(try_shares)


def loss_without(run, share: float, how: str, generator: torch.Generator) -> float:
    "Bits per byte without a share of the heads: the least important ones, or some drawn by chance."
    watched = run.watched
    scores = watched.score
    if how == 'chance':
        watched.score = [torch.rand(len(s), generator=generator) for s in scores]
    watched.prune_heads(round(watched.total * share))
    found = run.validate(100)['val_bits_per_byte']
    watched.score = scores
    for layer in watched.layers:
        layer.head_mask.fill_(1)
    return found


def heads(n: int):
    "Another number of heads, of a width that keeps the layer as large as it is."

    def variant(run):
        run.cfg = type(run.cfg)(**{**vars(run.cfg), 'n_heads': n})

    return variant


VARIANTS = {
    'heads-8': heads(8),
    **{f'sparse-{share}': sparse(share) for share in SHARES},
    'prune-after': prune_after,
}
