"""Chapter 6, freezing and LoRA: nothing changes at first, only A and B learn, merged equals unmerged, errors are clear."""

import copy

import pytest
import torch
from torch import nn

from tests.support import chapter

ch06 = chapter("ch06")
GPTConfig, GPTModel = (getattr(chapter("ch04"), name) for name in ("GPTConfig", "GPTModel"))
LoRALinear, add_lora, merge_lora, freeze_below = ch06.LoRALinear, ch06.add_lora, ch06.merge_lora, ch06.freeze_below
SMALL = GPTConfig(vocab_size=61, context_length=12, n_channels=24, n_heads=3, n_layers=3)
IDS = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(1))


def small():
    torch.manual_seed(5)
    return GPTModel(SMALL).eval()


def taught(rank=4):
    """A model whose LoRAs say something."""
    gpt = add_lora(small(), rank)
    for module in gpt.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.b, std=0.1)
    return gpt


def test_by_hand():
    layer = LoRALinear(nn.Linear(2, 3), rank=1, alpha=3.0)
    layer.a.data, layer.b.data = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0], [2.0], [0.0]])
    x = torch.ones(1, 2)
    wanted = layer.linear(x) + torch.tensor([[6.0, 12.0, 0.0]])
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer.merged()(x), wanted)


def test_at_first_nothing_changes_not_even_a_bit():
    gpt = small()
    before = gpt(IDS)
    assert torch.equal(add_lora(gpt, 4)(IDS), before)


def test_it_reaches_every_linear_layer_of_the_blocks_and_not_the_tied_head():
    gpt = add_lora(small(), 4)
    reached = {name for name, module in gpt.named_modules() if isinstance(module, LoRALinear)}
    plain = {name for name, module in small().named_modules() if isinstance(module, nn.Linear) and name != "head"}
    assert reached == plain and len(reached) == 4 * SMALL.n_layers
    assert type(gpt.head) is nn.Linear and gpt.head.weight is gpt.token_embedding.weight


@pytest.mark.parametrize("rank", [1, 4, 24])
def test_only_a_and_b_are_trained_as_many_as_arithmetic_says(rank):
    gpt = add_lora(small(), rank)
    trained = {name: p for name, p in gpt.named_parameters() if p.requires_grad}
    assert all(name.endswith((".a", ".b")) for name in trained)
    assert sum(p.numel() for p in trained.values()) == 16 * rank * SMALL.n_channels * SMALL.n_layers
    gpt(IDS).square().mean().backward()
    assert {name for name, p in gpt.named_parameters() if p.grad is not None} == set(trained)
    assert all((p.grad != 0).any() for name, p in trained.items() if name.endswith(".b"))


def test_the_base_stays_as_it_was_while_a_and_b_learn():
    gpt = add_lora(small(), 4)
    base = {name: p.detach().clone() for name, p in gpt.named_parameters() if not p.requires_grad}
    optimizer = chapter("ch05").configure_optimizer(gpt, 0.01)
    before = gpt(IDS)
    for _ in range(3):
        gpt(IDS, targets=IDS).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(p, base[name]) for name, p in gpt.named_parameters() if name in base)
    assert not torch.allclose(gpt(IDS), before, atol=1e-3)


def test_merged_equals_unmerged_and_is_a_plain_model_again(tmp_path):
    gpt = taught()
    unmerged = gpt(IDS)
    assert not torch.allclose(unmerged, small()(IDS), atol=1e-3)
    merged = merge_lora(gpt)
    torch.testing.assert_close(merged(IDS), unmerged, atol=1e-5, rtol=0)
    plain = small()
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]
    assert all(p.requires_grad for p in merged.parameters()) and not merged.training
    plain.load_state_dict(merged.state_dict())
    torch.testing.assert_close(plain(IDS), unmerged, atol=1e-5, rtol=0)


def test_twice_is_an_error_and_after_merging_it_isnt():
    gpt = taught()
    with pytest.raises(ValueError, match="has LoRA layers already; merge them first"):
        add_lora(gpt)
    add_lora(merge_lora(gpt), 2)


@pytest.mark.parametrize("rank", [0, -1, 25, 2.5, True, "8"])
def test_impossible_ranks_change_nothing(rank):
    gpt = small()
    with pytest.raises(ValueError, match=r"rank is .*; for a matrix of \(72, 24\) choose a whole number from 1 to 24"):
        add_lora(gpt, rank)
    assert all(p.requires_grad for p in gpt.parameters()) and not any(isinstance(m, LoRALinear) for m in gpt.modules())


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_impossible_alphas(alpha):
    with pytest.raises(ValueError, match="alpha is .* choose a number above 0"):
        LoRALinear(nn.Linear(3, 3), 1, alpha)


def test_both_zero_never_begin():
    layer = LoRALinear(nn.Linear(4, 4), 2)
    layer.a.data.zero_()
    layer(torch.ones(1, 4)).sum().backward()
    assert not layer.a.grad.any() and not layer.b.grad.any()


def test_the_adapter_alone_brings_a_fresh_base_to_the_same_logits():
    gpt = taught()
    adapter = {name: p for name, p in gpt.state_dict().items() if name.endswith((".a", ".b"))}
    fresh = add_lora(small(), 4)
    assert not fresh.load_state_dict(copy.deepcopy(adapter), strict=False).unexpected_keys
    assert torch.equal(fresh(IDS), gpt(IDS))


# ------------------------------------------------------------------------------------------------------------ freezing

@pytest.mark.parametrize(("n_blocks", "parts"), [(0, ()), (1, ("gpt.blocks.2.", "gpt.final_norm.")),
                                                 (3, ("gpt.blocks.", "gpt.final_norm."))])
def test_what_is_frozen(n_blocks, parts):
    classifier = ch06.SequenceClassifier(small())
    freeze_below(classifier, 1)
    assert freeze_below(classifier, n_blocks) is classifier
    for name, p in classifier.named_parameters():
        assert p.requires_grad == name.startswith(("head.", *parts)), name


@pytest.mark.parametrize("n_blocks", [-1, 4])
def test_more_blocks_than_there_are(n_blocks):
    with pytest.raises(ValueError, match=f"n_blocks is {n_blocks}, the model has 3 blocks; choose 0 to 3"):
        freeze_below(ch06.SequenceClassifier(small()), n_blocks)


def test_kinds_of_endings():
    for tale, kind in (("Milo dreamed that", "dream"), ("it turned out that she was right", "verdict"), ("Then Milo", "in turn")):
        assert ch06.ending_kind(tale) == kind
