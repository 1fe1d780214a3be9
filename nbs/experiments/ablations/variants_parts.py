"""Variants of the architecture, each without one of its parts or with another in its place; for `ablate.py`.

A variant is a function of a `Run` of ../search/search.py. `check_parts.py` asserts that each does what it says."""

from dataclasses import replace
from unittest import mock
import torch
import torch.nn.functional as F
from torch import nn
from i3nb.attention import MultiPatternAttention
from i3nb.core import I3Config
from i3nb.model import Block
from i3nb.recurrence import GRUMambaHybrid, HybridState, conv_silu, gru
from i3nb.scan import selective_scan


def kinds_without(*names) -> dict:
    "The kinds of a block's parameters without those of these names."
    return {k: v for k, v in GRUMambaHybrid.KINDS.items() if k not in names}


class ScanOnly(GRUMambaHybrid):
    "The block without its GRU: the convolution and the scan read the stream itself, as in Mamba."

    KINDS = kinds_without('weight_x', 'weight_h', 'bias')

    def __init__(self, cfg: I3Config):
        super().__init__(cfg)
        self.width = cfg.d_model
        del self.weight_x, self.weight_h, self.bias

    def zero_state(self, x) -> HybridState:
        (c, n), k = self.A_log.shape, self.conv_weight.shape[1]
        zeros = lambda *s: torch.zeros(x.shape[0], *s, device=x.device)
        return HybridState(zeros(self.width), zeros(k - 1, c), zeros(c, n))

    def forward(self, x, state=None, want_state=False):
        h, past, ssm0 = state or self.zero_state(x)
        u, past = conv_silu(self.in_proj(x), past, self.conv_weight, self.conv_bias)  # (b, t, c)
        dt, B, C = self.select(u).split([self.dt_rank, self.d_state, self.d_state], -1)
        delta = F.softplus(self.dt_proj(dt).float())
        y, ssm = selective_scan(u, delta, -torch.exp(self.A_log), B, C, self.D, h0=ssm0)
        return self.out_proj(y), HybridState(h, past.float().clone(), ssm) if want_state else None


class GRUOnly(GRUMambaHybrid):
    "The block without its scan: what the convolution gives is only multiplied by `D`."

    KINDS = kinds_without('select.weight', 'dt_proj.weight', 'dt_proj.bias', 'A_log')

    def __init__(self, cfg: I3Config):
        super().__init__(cfg)
        self.channels = cfg.d_inner
        del self.select, self.dt_proj, self.A_log

    def zero_state(self, x) -> HybridState:
        zeros = lambda *s: torch.zeros(x.shape[0], *s, device=x.device)
        k = self.conv_weight.shape[1]
        return HybridState(zeros(self.bias.shape[1]), zeros(k - 1, self.channels), zeros(self.channels, 1))

    def forward(self, x, state=None, want_state=False):
        h0, past, ssm = state or self.zero_state(x)
        hs, h = gru(x, h0.to(self.bias.dtype), self.weight_x, self.weight_h, self.bias)
        u, past = conv_silu(self.in_proj(x + hs.to(x.dtype)), past, self.conv_weight, self.conv_bias)
        y = self.out_proj(u * self.D.to(u.dtype))
        return y, HybridState(h, past.float().clone(), ssm) if want_state else None


def stack(
    order: str,  # a letter for each block: r for recurrence, a for attention
    recurrence: type = GRUMambaHybrid,
):
    "A function in place of `i3nb.model.make_blocks`."

    def make_blocks(cfg: I3Config) -> nn.ModuleList:
        make = dict(r=lambda: recurrence(cfg), a=lambda: MultiPatternAttention(cfg, cfg.n_heads))
        return nn.ModuleList(Block(cfg, make[letter]()) for letter in order)

    return make_blocks


def built_from(order: str, recurrence: type = GRUMambaHybrid):
    "A variant whose model has these blocks, in this order."

    def variant(run):
        build, run.cfg = run.build, replace(run.cfg, n_hybrid=order.count('r'), n_attn=order.count('a'))

        def build_so(folder):
            with mock.patch('i3nb.model.make_blocks', stack(order, recurrence)):
                build(folder)

        run.build = build_so

    return variant


def config(**fields):
    "A variant with other values in the configuration."

    def variant(run):
        run.cfg = replace(run.cfg, **fields)

    return variant


def rate(lr: float):
    "Another peak rate of Muon."

    def variant(run):
        run.settings['lr'] = lr

    return variant


def length(factor: float):
    "More or fewer steps."

    def variant(run):
        run.steps = round(run.steps * factor)
        run.settings['iters'] = run.steps
        run.budget = round(run.budget * factor)

    return variant


def random_start(run):
    "Small random embedding and head."
    run.after_build.clear()


PATTERNS = 'sliding', 'dilated', 'chunked'
PAIRS = [(a, b) for i, a in enumerate(PATTERNS) for b in PATTERNS[i + 1 :]]

VARIANTS = {
    'no-gru': built_from('rrraa', ScanOnly),
    'no-scan': built_from('rrraa', GRUOnly),
    'attention-only': built_from('aaaaa'),
    'recurrence-only': built_from('rrrrr'),
    'interleaved': built_from('rarar'),
    'attention-first': built_from('aarrr'),
    **{name: config(patterns=(name,)) for name in PATTERNS},
    **{f'{a}-and-{b}': config(patterns=(a, b)) for a, b in PAIRS},
    'full-attention': config(patterns=('sliding',), window=256),
    'by-sequence': config(route_by='sequence'),
    'hard': config(route_hard=True),
    'dense-active': config(n_experts=1, top_k=1, d_ff=1024),  # as many active weights as two experts of 512
    'dense-total': config(n_experts=1, top_k=1, d_ff=2048),  # as many weights as four experts of 512
    'experts-1': config(n_experts=1, top_k=1),
    'experts-2': config(n_experts=2),
    'experts-8': config(n_experts=8),
    'top-1': config(top_k=1),
    'state-4': config(d_state=4),
    'state-64': config(d_state=64),
    'state-128': config(d_state=128),
    'random-start': random_start,
    'rate-0.01': rate(0.01),
    'rate-0.04': rate(0.04),
    'half': length(0.5),
    'double': length(2.0),
}
