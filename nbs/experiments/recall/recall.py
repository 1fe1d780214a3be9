"""Trains small models on a task of `tasks.py` and appends to a file how well they answer after how much noise.

python recall.py --models base,no-gru,gpt2 --tasks recall,copy --rates 0.02 --seeds 0,1,2 --out FILE"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from unittest import mock
import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / 'others'), str(HERE.parent / 'ablations')]

import small_peers  # noqa: E402
from tasks import TASKS, VOCAB  # noqa: E402
from variants_parts import GRUOnly, ScanOnly, stack  # noqa: E402
from i3nb.base.devices import seed_all  # noqa: E402
from i3nb.bench.ceiling import device_name  # noqa: E402
from i3nb.bench.peers import peer_optimizer  # noqa: E402
from i3nb.core import I3Config  # noqa: E402
from i3nb.kernels.native import keep_memory  # noqa: E402
from i3nb.model import I3Model  # noqa: E402
from i3nb.optim import clip_gradients, lr_scale  # noqa: E402
from i3nb.recipes import build_optimizer  # noqa: E402
from i3nb.recurrence import GRUMambaHybrid  # noqa: E402

DISTANCES = 16, 64, 256, 1024, 4096  # tokens of noise, where models are tested
LONGEST = 4096 + 64  # tokens of a text
SHAPE = dict(d_model=64, n_heads=2, d_inner=128, dt_rank=4, d_ff=128)
OURS = dict(  # a letter for each block, r for recurrence and a for attention, and the recurrent block
    base=('rrraa', GRUMambaHybrid),
    **{
        'no-gru': ('rrraa', ScanOnly),
        'no-scan': ('rrraa', GRUOnly),
        'attention-only': ('aaaaa', GRUMambaHybrid),
        'recurrence-only': ('rrrrr', GRUMambaHybrid),
        'scan-alone': ('rrrrr', ScanOnly),
        'gru-alone': ('rrrrr', GRUOnly),
        'full-attention': ('rrraa', GRUMambaHybrid),
    },
)
PEERS = dict(
    gpt2=dict(n_embd=64, n_layer=5, n_head=2),
    llama=dict(hidden_size=64, num_hidden_layers=5, num_attention_heads=2, intermediate_size=176),
    mamba=dict(hidden_size=64, num_hidden_layers=8, state_size=16),
)


class Learner:
    "A model of ours or of `transformers`, with one interface."

    def __init__(self, name: str, recipe: str, lr: float):
        self.ours = name in OURS
        if self.ours:
            order, recurrence = OURS[name]
            fields = dict(patterns=('sliding',), window=LONGEST) if name == 'full-attention' else {}
            cfg = I3Config.preset('i3-tiny', vocab_size=VOCAB, n_hybrid=order.count('r'), n_attn=order.count('a'))
            cfg = I3Config(**{**vars(cfg), **SHAPE, **fields})
            with mock.patch('i3nb.model.make_blocks', stack(order, recurrence)):
                self.model = I3Model(cfg)
            self.optimizer = build_optimizer(self.model, recipe, lr=lr)
        else:
            self.model = small_peers.build(name, VOCAB, LONGEST, **PEERS[name])
            self.optimizer = peer_optimizer(self.model, recipe, lr)

    def loss(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        "What to minimise."
        if self.ours:
            return self.model(ids, targets).loss
        return F.cross_entropy(self.answers(ids, targets), targets[targets >= 0])

    def answers(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:  # (asked, v)
        "Logits where something is asked."
        asked = targets >= 0
        if self.ours:
            return self.model.head(self.model(ids).hidden[asked])
        return self.model.lm_head(self.model.base_model(input_ids=ids).last_hidden_state[asked])


def some_distance(longest: int, generator: torch.Generator) -> int:
    "From 8 tokens of noise to `longest`; all orders of magnitude are equally likely."
    share = torch.rand((), generator=generator).item()
    return round(math.exp(math.log(8) + share * math.log(longest / 8)))


@torch.no_grad()
def accuracies(learner: Learner, task, seed: int, tokens: int = 65536) -> dict:
    "Share of right answers, by distance."
    learner.model.eval()
    generator = torch.Generator().manual_seed(10_000 + seed)
    found = {}
    for distance in DISTANCES:
        rows = max(8, min(64, tokens // distance))
        right = []
        for piece in zip(*(x.split(8) for x in task(rows, distance, generator))):
            ids, targets = piece
            logits = learner.answers(ids, targets)
            right.append((logits.argmax(-1) == targets[targets >= 0]).float().mean().item())
        found[distance] = statistics.mean(right)
    learner.model.train()
    return found


def train(name: str, task: str, lr: float, seed: int, a) -> dict:
    "A run; its line."
    seed_all(seed)
    learner, generator = Learner(name, a.recipe, lr), torch.Generator().manual_seed(seed)
    began, points, losses = time.process_time(), [], []
    for step in range(a.steps):
        distance = some_distance(a.longest, generator)
        ids, targets = TASKS[task](max(1, a.tokens // (distance + 32)), distance, generator)
        learner.optimizer.set_lr_scale(lr_scale(step / a.steps, step, 20, fall=0.6))
        loss = learner.loss(ids, targets)
        loss.backward()
        clip_gradients(learner.model.parameters(), 1.0)
        learner.optimizer.step()
        learner.optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % a.every == 0:
            took = time.process_time() - began
            middle = statistics.mean(losses[-a.every :])
            points.append(
                dict(step=step + 1, cpu_seconds=took, loss=middle, right=accuracies(learner, TASKS[task], seed))
            )
            print(name, task, lr, seed, json.dumps(points[-1]), flush=True)
    size = sum(p.numel() for p in learner.model.parameters())
    setting = dict(steps=a.steps, tokens=a.tokens, longest=a.longest, device=device_name(torch.device('cpu')))
    return dict(model=name, task=task, recipe=a.recipe, lr=lr, seed=seed, params=size, **setting, points=points)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--models', required=True)
    p.add_argument('--tasks', default='recall,copy')
    p.add_argument('--recipe', default='muon', help='muon or adamw')
    p.add_argument('--rates', default='0.02')
    p.add_argument('--seeds', default='0')
    p.add_argument('--steps', type=int, default=1000)
    p.add_argument('--tokens', type=int, default=4096, help='of a step')
    p.add_argument('--longest', type=int, default=4096, help='noise in training, in tokens')
    p.add_argument('--every', type=int, default=100, help='steps between two tests')
    p.add_argument('--out', required=True)
    a = p.parse_args()
    keep_memory()
    small_peers.use_our_scan()
    for task in a.tasks.split(','):
        for seed in map(int, a.seeds.split(',')):
            for rate in map(float, a.rates.split(',')):
                for name in a.models.split(','):
                    line = train(name, task, rate, seed, a)
                    with open(a.out, 'a') as f:
                        f.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()
