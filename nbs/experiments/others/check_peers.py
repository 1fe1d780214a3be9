"""python check_peers.py asserts that Mamba and Jamba compute the same with our scan as with that of `transformers`."""

import small_peers
import torch
import transformers
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

SHAPES = dict(
    mamba=dict(hidden_size=64, num_hidden_layers=2, state_size=16, use_mambapy=False),
    jamba=dict(hidden_size=64, num_hidden_layers=2, intermediate_size=64, num_attention_heads=2, num_experts=2),
)


def gradients(model: transformers.PreTrainedModel, ids: torch.Tensor) -> list:
    "Logits, and the gradients of a loss on them."
    model.zero_grad()
    logits = model(input_ids=ids).logits
    logits.logsumexp(-1).sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def main():
    usual = {module: module.mamba_selective_scan for module in small_peers.MODULES}
    assert mamba_selective_scan in usual.values()
    for kind, shape in SHAPES.items():
        torch.manual_seed(0)
        model, ids = small_peers.build(kind, 128, 100, **shape), torch.randint(0, 128, (2, 100))
        for module, scan in usual.items():
            module.mamba_selective_scan = scan
        before = gradients(model, ids)
        small_peers.use_our_scan()
        after = gradients(model, ids)
        worst = max(((a - b).abs().max() / a.abs().max().clamp_min(1e-6)).item() for a, b in zip(before, after))
        assert len(before) == len(after) > 5 and worst < 1e-4, (kind, worst)
        print(f'{kind}: logits and {len(before) - 1} gradients differ by at most {worst:.0e} of their largest entry')


if __name__ == '__main__':
    main()
