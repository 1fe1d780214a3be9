"""Variants of `search.py` that change what the model remembers, and its two ends. `check_variants.py` asserts that each
does what it says."""

import types
from functools import partial
import torch
import torch.nn.functional as F
from torch import nn
from variants_data import Lanes, all_tokens
from i3nb.attention import AttnState, attn_period, attn_reach, pattern_mask
from i3nb.recurrence import HybridState
from i3nb.scan import selective_scan

# --- nothing is remembered across a document's beginning ---

CERTAIN = 30.0  # a gate's logit that makes it 0 or 1
FORGET = 200.0  # a step size after which the scan remembers nothing


def gru_reset(x, h, starts, weights):
    "`gru_library`, whose gates close at `starts` (b, t): the new state is the candidate, made from the token alone."
    (Wx, Wh, bias), d, kept = weights, x.shape[-1], h.dtype
    x = torch.cat([x, starts[..., None].to(x.dtype)], -1).to(Wx.dtype)
    gate = Wx.new_full((d, 1), -CERTAIN)
    columns = (gate, gate, torch.zeros_like(gate))
    Wi = torch.cat([torch.cat([W, column], 1) for W, column in zip((Wx[0], -Wx[1], Wx[2]), columns)])  # (3d, d+1)
    bias = bias.to(Wx.dtype)
    parts = Wi, torch.cat([Wh[0], -Wh[1], Wh[2]]), torch.cat([bias[0], -bias[1], bias[2]]), torch.zeros_like(Wi[:, 0])
    packed = torch.cat([part.reshape(-1) for part in parts]).split([part.numel() for part in parts])
    weights = [flat.view(part.shape) for flat, part in zip(packed, parts)]
    options = dict(has_biases=True, num_layers=1, dropout=0.0, train=torch.is_grad_enabled())
    hs, last = torch._VF.gru(x, h.to(Wx.dtype)[None], weights, **options, bidirectional=False, batch_first=True)
    return hs, last[0].to(kept)


def conv_reset(s, past, document, w, bias):
    "`conv_silu` whose taps see their own document only."
    t, k = s.shape[1], w.shape[1]
    padded = torch.cat([past.to(s.dtype), s], 1)  # (b, t+k-1, c)
    of_padded = F.pad(document, (k - 1, 0))  # the past is of document 0
    w, out = w.to(s.dtype), bias.to(s.dtype)
    for j in range(k):
        own = of_padded[:, j : j + t] == document
        out = out + padded[:, j : j + t] * w[:, j] * own[..., None].to(s.dtype)
    return F.silu(out), padded[:, t:]


def hybrid_reset(self, sight, x, state=None, want_state=False):
    "`GRUMambaHybrid.forward` that forgets at `sight.starts`."
    h0, past, ssm0 = state or self.zero_state(x)
    with torch.autocast(x.device.type, enabled=False):
        hs, h = gru_reset(x, h0, sight.starts, (self.weight_x, self.weight_h, self.bias))
    s = self.in_proj(x + hs.to(x.dtype))  # (b, t, c)
    u, past = conv_reset(s, past, sight.document, self.conv_weight, self.conv_bias)
    dt, B, C = self.select(u).split([self.dt_rank, self.d_state, self.d_state], -1)
    delta, start = F.softplus(self.dt_proj(dt).float()), sight.starts[..., None]  # (b, t, c), (b, t, 1)
    entering = torch.where(start, u.float() * delta / FORGET, u.float())  # what enters the state stays the same
    y, ssm = selective_scan(entering, torch.where(start, FORGET, delta), -torch.exp(self.A_log), B, C, self.D, h0=ssm0)
    y = (y + self.D * (u.float() - entering)).to(u.dtype)
    return self.out_proj(y), HybridState(h, past.float().clone(), ssm) if want_state else None


def attend_reset(cfg, sight, q, k, v, *routed):
    "`dense_attention` to the own document only; `routed` is what `_attend` gets besides: weights, and tokens before."
    route, pos = routed
    t, tk = q.shape[2], k.shape[2]
    q_pos, k_pos = torch.arange(pos, pos + t, device=q.device), torch.arange(pos + t - tk, pos + t, device=q.device)
    own = F.pad(sight.document, (tk - t, 0))[:, None, None] == sight.document[:, None, :, None]  # (b, 1, tq, tk)
    scores, weights = (q @ k.mT).float() / q.shape[-1] ** 0.5, 0
    for i, name in enumerate(cfg.patterns):
        seen = pattern_mask(name, q_pos, k_pos, cfg) & own
        weights = weights + route[:, None, :, i, None].float() * scores.masked_fill(~seen, -1e30).softmax(-1)
    return weights.to(v.dtype) @ v


def forget_at_starts(
    model,  # changed in place
    eot: int,  # the token that begins a document
):
    "Let no layer look across the beginning of a document."
    sight, forward = types.SimpleNamespace(), model.forward

    def look(ids, *args, **kwargs):
        sight.starts = ids == eot  # (b, t)
        sight.document = sight.starts.long().cumsum(1)  # (b, t) number of the document in its row
        return forward(ids, *args, **kwargs)

    model.forward = look
    for block in model.hybrid_layers:
        block.mixer.forward = partial(hybrid_reset, block.mixer, sight)
    for block in model.attn_layers:
        block.mixer._attend = partial(attend_reset, model.cfg, sight)


def change_model(
    change,  # change(run), of `run.model` in place
):
    "A variant that changes the model; the step is made anew."

    def begin(run):
        change(run)
        run.set_batches(run.batches)

    return lambda run: run.after_build.append(begin)


# --- the memory of a row is carried on to the next step ---


def empty_memory(model, b: int) -> list:
    "States of all layers after many tokens that said nothing, in buffers."
    cfg, device = model.cfg, next(model.parameters()).device
    period = attn_period(cfg)
    late = -(-attn_reach(cfg) // period) * period  # from here on all keys exist
    states = [block.mixer.zero_state(torch.empty(b, device=device)) for block in model.hybrid_layers]
    for block in model.attn_layers:
        keys = torch.zeros(2, b, block.mixer.n_heads, attn_reach(cfg) - 1, cfg.head_dim, device=device)
        states.append(AttnState(*keys, late, torch.zeros(b, len(cfg.patterns), device=device)))
    return states


def carry_memory(model, b: int):
    "While it trains, the model goes on from the memory that its last step left."
    memory, forward = empty_memory(model, b), model.forward
    tensors = lambda states: [x for state in states for x in state if torch.is_tensor(x)]

    def go_on(ids, targets=None, state=None, want_state=False):
        if not model.training:
            return forward(ids, targets, state=state, want_state=want_state)
        before = [type(s)(*(x.clone() if torch.is_tensor(x) else x for x in s)) for s in memory]
        out = forward(ids, targets, state=before, want_state=True)
        for old, new in zip(tensors(memory), tensors(out.state)):
            old.copy_(new.detach())
        out.state = None
        return out

    model.forward = go_on


def carried(
    t: int,  # tokens of a window
):
    "A variant whose windows go on where the last ones ended; as many tokens a step as usual."

    def begin(run):
        b = run.batches.b * run.batches.t // t
        carry_memory(run.model, b)
        run.set_batches(Lanes(*all_tokens(run.data), b, t, run.seed))

    return lambda run: run.after_build.append(begin)


# --- the model's two ends ---


class BigramEmbedding(nn.Module):
    "A token's embedding, plus a row that a hash of the token and the one before it chooses; zero at the start."

    def __init__(self, embed: nn.Embedding, rows: int, eot: int):
        super().__init__()
        self.embed, self.eot = embed, eot
        self.table = nn.Embedding(rows, embed.embedding_dim, device=embed.weight.device)
        nn.init.zeros_(self.table.weight)

    @property
    def weight(self):
        return self.embed.weight

    def rows_of(self, ids):  # (b, t)
        "The table's row for each token; what comes before the first one counts as a document's beginning."
        before = F.pad(ids[:, :-1], (1, 0), value=self.eot)
        mixed = (before * 1_000_003 + ids) * 2_654_435_761  # wraps around
        return ((mixed >> 16) & 0x7FFFFFFF) % self.table.num_embeddings

    def forward(self, ids):
        return self.embed(ids) + self.table(self.rows_of(ids))


def bigram(rows: int):
    "A variant with a table of hashed bigrams, which AdamW trains as it trains the embedding."

    def change(run):
        group = run.group_of(run.model.embed.weight)
        run.model.embed = BigramEmbedding(run.model.embed, rows, run.data.tokenizer.eot_id)
        settings = {k: v for k, v in group.items() if k != 'params'}
        run.adamw.add_param_group({**settings, 'params': [run.model.embed.table.weight]})
        run.optimizer.make_states()

    return change_model(change)


def noise(rows: int, count: torch.Tensor) -> torch.Tensor:  # (rows,) in [0, 1)
    "Other numbers for each count, from no generator, so that runs beside each other and recordings get their own."
    mixed = (torch.arange(rows, device=count.device) + count * 65_537) * 0x9E3779B1
    mixed = ((mixed >> 15) ^ mixed) * 0x85EBCA6B
    mixed = ((mixed >> 13) ^ mixed) * 0xC2B2AE35
    return ((mixed >> 16) & 0xFFFFFF) / (1 << 24)


def sampled_loss(hidden, W, bias, targets, *, seen, sampled, count):
    """Cross-entropy over the targets of the batch and a sample of the other rows, which stand for all the rest.
    `seen` (v,): probability that a row is a target of a batch; `sampled` (v,): that it is drawn;
    `count` (): of samples so far, raised by one."""
    targets = targets.flatten()
    drawn = noise(len(W), count.add_(1)) < sampled
    drawn = drawn.index_fill(0, targets.clamp_min(0), True)  # the targets are always there
    included = 1 - (1 - seen) * (1 - sampled)
    correction = torch.where(drawn, -included.log(), -1e30)  # a row stands for 1 / included rows
    scores = F.linear(hidden.flatten(0, 1), W, bias).float()  # (rows, v)
    own = scores.gather(1, targets.clamp_min(0)[:, None])
    scores = (scores + correction).scatter(1, targets.clamp_min(0)[:, None], own)  # a target stands for itself
    return F.cross_entropy(scores, targets, ignore_index=-100)


def sampled(rows: int):
    "A variant whose head scores the targets of the batch and about `rows` others. Here all are computed, then masked."

    def change(run):
        ids, _ = all_tokens(run.data)
        v, device = run.cfg.vocab_size, run.trainer.device
        share = torch.bincount(torch.from_numpy(ids), minlength=v).double() / len(ids)
        seen = (1 - (1 - share) ** (run.batches.b * run.batches.t)).float().to(device)
        drawn = torch.full((v,), min(1.0, rows / v), device=device)
        run.note['rows_expected'] = float((1 - (1 - seen) * (1 - drawn)).sum())
        model, usual = run.model, run.model.token_loss
        count = torch.full((), run.seed << 20, device=device)
        loss = partial(sampled_loss, seen=seen, sampled=drawn, count=count)
        of_head = lambda hidden, y: loss(hidden, model.head.weight, model.head.bias, y)
        model.token_loss = lambda hidden, y: (of_head if model.training else usual)(hidden, y)

    return change_model(change)


class NormedEmbedding(nn.Module):
    "An embedding whose rows have mean 0 and variance 1 when they enter the stream."

    def __init__(self, embed: nn.Embedding):
        super().__init__()
        self.embed = embed

    @property
    def weight(self):
        return self.embed.weight

    def forward(self, ids):
        return F.layer_norm(self.embed(ids), self.weight.shape[1:])


def normed_embedding(run):
    run.model.embed = NormedEmbedding(run.model.embed)


@torch.no_grad()
def wide_embedding(run):
    run.model.embed.weight.mul_(50)  # its rows begin with a standard deviation of 1 instead of 0.02


VARIANTS = {
    'doc-reset': change_model(lambda run: forget_at_starts(run.model, run.data.tokenizer.eot_id)),
    'carried-256': carried(256),
    'carried-128': carried(128),
    'carried-64': carried(64),
    'bigram-8k': bigram(1 << 13),
    'bigram-32k': bigram(1 << 15),
    'sampled-128': sampled(128),
    'sampled-512': sampled(512),
    'embed-1': change_model(wide_embedding),
    'embed-norm': change_model(normed_embedding),
}
