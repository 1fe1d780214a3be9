"""GPT-2, Llama, Mamba and Jamba of `transformers`; the latter two with our compiled scan.

`transformers` computes Mamba's scan in PyTorch, which on a CPU takes most of the time and all of the memory.
`use_our_scan` puts `i3nb.scan.selective_scan` in its place; `check_peers.py` asserts that both give the same."""

import torch
import torch.nn.functional as F
import transformers
from transformers.models.jamba import modeling_jamba
from transformers.models.mamba import modeling_mamba
from i3nb.scan import selective_scan

MODULES = modeling_mamba, modeling_jamba


def scan_of_ours(
    u: torch.Tensor,  # (b, c, t)
    dt: torch.Tensor,  # (b, c, t) before softplus
    A: torch.Tensor,  # (c, n)
    B: torch.Tensor,  # (b, n, t)
    C: torch.Tensor,  # (b, n, t)
    **rest,  # D (c,), z (b, c, t) the gate, delta_bias (c,), return_last_state, and what only kernels of a GPU use
):
    "Takes and gives what `mamba_selective_scan` of `transformers` does."
    delta = F.softplus(dt.float() + rest['delta_bias'][:, None])
    u, delta, B, C = (x.transpose(1, 2) for x in (u, delta, B, C))
    y, state = selective_scan(u, delta, A, B, C, rest['D'])
    y = y.transpose(1, 2) * F.silu(rest['z'])
    return (y, state) if rest['return_last_state'] else y


def use_our_scan():
    "From now on, Mamba and Jamba of `transformers` use our scan."
    for module in MODULES:
        module.mamba_selective_scan = scan_of_ours


def build(
    kind: str,  # 'gpt2', 'llama', 'mamba' or 'jamba'
    vocab_size: int,
    seq_len: int,  # the longest text
    **shape,  # fields of the configuration
) -> transformers.PreTrainedModel:
    "A model in training mode, without dropout."
    shape = dict(vocab_size=vocab_size, use_cache=False, bos_token_id=0, eos_token_id=0, pad_token_id=None, **shape)
    if kind == 'gpt2':
        shape |= dict(n_positions=seq_len, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    if kind == 'llama':
        shape |= dict(max_position_embeddings=seq_len)
    if kind == 'jamba':
        shape |= dict(use_mamba_kernels=False)
    transformers.logging.set_verbosity_error()
    config = transformers.AutoConfig.for_model(kind, **shape)
    return transformers.AutoModelForCausalLM.from_config(config).train()


def token_loss(model: transformers.PreTrainedModel):
    "The mean cross-entropy of (x, y), as `transformers` computes it: from all logits at once, in fp32."

    def nll(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(input_ids=x).logits.float().flatten(0, 1), y.flatten())

    return nll
