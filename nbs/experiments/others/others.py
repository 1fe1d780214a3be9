"""Trains i3-tiny, GPT-2, Llama, Mamba and Jamba of equal work per token on stories, and appends a line for each run.

python others.py --models i3,gpt2,mamba --rates 0.02,0.04 --seeds 0 --steps 150 --data FILES --val FILE --out FILE

By default matrices learn with Muon and the rest with AdamW. All models use our compiled scan where they have one."""

import argparse
import json
import statistics
import time
from dataclasses import replace
import small_peers
import torch
from i3nb.base.devices import seed_all
from i3nb.bench.ceiling import device_name
from i3nb.bench.contenders import Contender, one_step
from i3nb.bench.peers import peer_flops, peer_optimizer
from i3nb.bench.race import window_quality
from i3nb.core import I3Config
from i3nb.counts import start_from_counts
from i3nb.data.batches import Batches
from i3nb.data.preparation import prepare
from i3nb.kernels.native import keep_memory
from i3nb.model import I3Model, flops_per_token
from i3nb.optim import lr_scale
from i3nb.recipes import build_optimizer

VOCAB, LENGTH = 4096, 256
PEERS = dict(  # about as many operations per token as i3-tiny
    gpt2=dict(n_embd=128, n_layer=8, n_head=4),
    llama=dict(
        hidden_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        intermediate_size=352,
        tie_word_embeddings=True,
    ),
    mamba=dict(hidden_size=128, num_hidden_layers=16, state_size=16),
    jamba=dict(
        hidden_size=128,
        num_hidden_layers=8,
        intermediate_size=240,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=16,
    ),
)
MODELS = 'i3', 'i3-counts', *PEERS


def ours(recipe: str, lr: float, adam_lr: float) -> Contender:
    "i3-tiny."
    cfg = replace(I3Config.preset('i3-tiny'), vocab_size=VOCAB)
    model = I3Model(cfg)
    rates = dict(lr=lr, adam_lr=adam_lr) if recipe == 'muon' else dict(lr=lr)
    optimizer = build_optimizer(model, recipe, **rates)
    losses = dict(nll=lambda x, y: model(x, y).lm_loss, loss=lambda x, y: model(x, y).loss, begin=None)
    about = dict(flops=flops_per_token(cfg), micro=64, recipe=recipe)
    return Contender(name='i3', model=model, optimizer=optimizer, **about, **losses)


def peer(name: str, recipe: str, lr: float, adam_lr: float) -> Contender:
    "A model of `transformers`."
    model = small_peers.build(name, VOCAB, LENGTH, **PEERS[name])
    losses = dict.fromkeys(('nll', 'loss'), small_peers.token_loss(model))
    about = dict(flops=peer_flops(model, LENGTH), micro=64, recipe=recipe)
    optimizer = peer_optimizer(model, recipe, lr, adam_lr)
    return Contender(name=name, model=model, optimizer=optimizer, begin=None, **about, **losses)


def train(name: str, lr: float, seed: int, data, a) -> dict:
    "A run; its line."
    seed_all(seed)
    rates = a.recipe, lr, a.adam_lr
    c = ours(*rates) if name.startswith('i3') else peer(name, *rates)
    if name == 'i3-counts':
        start_from_counts(c.model, data.train, data.weights, seed)
    batches, losses, took = Batches(data, a.batch_size, LENGTH, seed), [], []
    for step in range(a.steps):
        began = time.process_time()
        c.optimizer.set_lr_scale(lr_scale(step / a.steps, step, a.warmup, fall=0.6))
        losses.append(one_step(c, *next(batches), a.precision))
        took.append(time.process_time() - began)
    c.model.eval()
    tests = dict(precision=a.precision, max_docs=a.docs)
    found = window_quality(c.nll, data.val, data.tokenizer, LENGTH, **tests)
    size = dict(params=sum(p.numel() for p in c.model.parameters()), flops=c.flops)
    run = dict(steps=a.steps, tokens=a.steps * a.batch_size * LENGTH)
    time_of = dict(cpu_seconds=sum(took), step_seconds=statistics.median(took))
    where = dict(batch_size=a.batch_size, precision=a.precision, device=device_name(torch.device('cpu')))
    losses = [round(x, 4) for x in losses[:: max(1, a.steps // 60)]]
    who = dict(model=name, recipe=a.recipe, lr=lr, adam_lr=a.adam_lr, seed=seed)
    return dict(**who, **size, **run, **time_of, **found, **where, losses=losses)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--models', default=','.join(MODELS))
    p.add_argument('--recipe', default='muon', help='muon, or adamw for all parameters')
    p.add_argument('--rates', default='0.02')
    p.add_argument('--adam_lr', type=float, default=3e-3, help='of what Muon leaves to AdamW')
    p.add_argument('--seeds', default='0')
    p.add_argument('--steps', type=int, default=150)
    p.add_argument('--batch_size', type=int, default=8)
    p.add_argument('--warmup', type=int, default=5, help='steps')
    p.add_argument('--precision', default='bf16')
    p.add_argument('--docs', type=int, default=100, help='documents that are evaluated')
    p.add_argument('--data', required=True)
    p.add_argument('--val', required=True)
    p.add_argument('--out', required=True)
    a = p.parse_args()
    keep_memory()
    small_peers.use_our_scan()
    data = prepare(a.data, vocab_size=VOCAB, val_spec=a.val, keep_case=True, progress=False)
    for rate in map(float, a.rates.split(',')):
        for seed in map(int, a.seeds.split(',')):
            for name in a.models.split(','):
                line = train(name, rate, seed, data, a)
                print(name, rate, seed, line['steps'], round(line['cpu_seconds'], 1), line['bits_per_byte'], flush=True)
                with open(a.out, 'a') as f:
                    f.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()
