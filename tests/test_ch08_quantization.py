"""Chapter 8, quantization: the error of rounding, packing, outliers, copies that share, and PyTorch's kernel."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.support import chapter

ch05, ch06, ch08 = chapter("ch05"), chapter("ch06"), chapter("ch08")


def weights(rows=6, columns=64, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ch05.GPTModel(ch05.GPTConfig(vocab_size=40, context_length=16, n_channels=32, n_heads=2, n_layers=2)).eval()


# ------------------------------------------------------------- eight bits

@settings(deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-6, 1e6))
def test_int8_is_within_half_a_step(seed, scale):
    weight = weights(seed=seed) * scale
    whole, step = ch08.quantize_int8(weight)
    assert whole.dtype == torch.int8 and whole.abs().amax(dim=1).tolist() == [127] * 6 and step.shape == (6, 1)
    assert ((whole * step - weight).abs() <= step * 0.5001).all()


def test_an_outlier_harms_only_its_row():
    weight = weights()
    spoiled = weight.clone()
    spoiled[2, 5] = 1e4
    (a, scale_a), (b, scale_b) = ch08.quantize_int8(weight), ch08.quantize_int8(spoiled)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(a[others], b[others]) and torch.equal(scale_a[others], scale_b[others])
    assert b[2].abs().sum() == 127                                     # all others of that row are rounded to 0


def test_a_row_of_zeros_stays_zero():
    whole, scale = ch08.quantize_int8(torch.zeros(2, 8))
    assert not (whole * scale).any()
    packed, scale = ch08.quantize_int4(torch.zeros(2, 8), 4)
    assert not ch08.dequantize_int4(packed, scale).any()


@pytest.mark.parametrize("weight", [torch.zeros(3), torch.tensor([[1.0, float("nan")]]), torch.tensor([[float("inf")]])])
def test_int8_refuses_what_isnt_a_finite_matrix(weight):
    with pytest.raises(ValueError, match="must be a matrix of finite numbers"):
        ch08.quantize_int8(weight)


# ------------------------------------------------------------- four bits

@settings(deadline=None)
@given(seed=st.integers(0, 10_000), group=st.sampled_from([2, 4, 8, 16, 32, 64]))
def test_int4_is_within_half_a_step_of_its_group(seed, group):
    weight = weights(seed=seed)
    packed, scale = ch08.quantize_int4(weight, group)
    assert packed.dtype == torch.uint8 and packed.shape == (6, 32) and scale.shape == (6, 64 // group)
    back = ch08.dequantize_int4(packed, scale)
    step = scale.repeat_interleave(group, dim=1)
    assert ((back - weight).abs() <= step * 0.5001).all()


def test_whole_numbers_come_back_exactly():
    whole = torch.randint(-7, 8, (4, 32), generator=torch.Generator().manual_seed(1)).float()
    whole[:, ::8] = 7                                                  # so that each group of 8 has the scale 1
    packed, scale = ch08.quantize_int4(whole, 8)
    assert torch.equal(ch08.dequantize_int4(packed, scale), whole) and (scale == 1).all()


def test_smaller_groups_err_less():
    weight = weights(16, 256)
    errors = [(ch08.dequantize_int4(*ch08.quantize_int4(weight, g)) - weight).norm().item() for g in (8, 32, 256)]
    assert errors == sorted(errors) and errors[0] < 0.8 * errors[2]


@pytest.mark.parametrize("group", [0, 1, 3, 48, 128])
def test_int4_refuses_groups_that_dont_fit(group):
    with pytest.raises(ValueError, match=f"can't be cut into groups of {group}"):
        ch08.quantize_int4(weights(), group)


# ------------------------------------------------------------- layers and models

@pytest.mark.parametrize(("layer", "tolerance"), [(ch08.Int8Linear, 0.01), (ch08.Int4Linear, 0.15), (ch08.PackedInt8Linear, 0.03),
                                                  (ch08.PackedLinear, 1e-5)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_layers_compute_nearly_the_same(layer, tolerance, bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48, bias=bias), torch.randn(2, 5, 64)
    y = layer(linear)(x)
    assert y.shape == (2, 5, 48) and (y - linear(x)).norm() < tolerance * linear(x).norm()


@pytest.mark.parametrize("n_rows", [1, 2, 8, 33])
@torch.no_grad()
def test_packed_weights_are_the_same_with_and_without_onednn(monkeypatch, n_rows):
    linear, x = nn.Linear(64, 48), torch.randn(n_rows, 64)
    packed = ch08.PackedLinear(linear)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    for layer in (packed, ch08.PackedLinear(linear)):
        torch.testing.assert_close(layer(x), linear(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_nothing_of_onednn_is_called_where_it_is_missing(monkeypatch, dtype):
    linear, x = nn.Linear(64, 48).to(dtype), torch.randn(3, 64).to(dtype)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    assert torch.equal(ch08.PackedLinear(linear)(x), linear(x))


@torch.no_grad()
def test_packed_weights_keep_their_type():
    linear, x = nn.Linear(64, 48).bfloat16(), torch.randn(3, 64).bfloat16()
    assert ch08.PackedLinear(linear)(x).dtype == torch.bfloat16
    torch.testing.assert_close(ch08.PackedLinear(linear)(x), linear(x), atol=0.02, rtol=0.02)
    double = nn.Linear(64, 48).double()                              # nothing is packed in float64
    assert not ch08.PackedLinear(double).is_packed
    torch.testing.assert_close(ch08.PackedLinear(double)(x.double()), double(x.double()))


@torch.no_grad()
def test_int8_layer_is_its_formula():
    linear, x = nn.Linear(64, 48), torch.randn(3, 64)
    whole, scale = ch08.quantize_int8(linear.weight)
    torch.testing.assert_close(ch08.Int8Linear(linear)(x), F.linear(x, whole * scale, linear.bias), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [ch08.Int8Linear, ch08.Int4Linear, ch08.PackedInt8Linear, ch08.PackedLinear])
@torch.no_grad()
def test_a_quantized_model_leaves_the_first_alone(model, layer):
    before = copy.deepcopy(model.state_dict())
    small = ch08.quantized(model, layer)
    assert not any(isinstance(m, nn.Linear) for m in small.modules())
    assert small.token_embedding.weight is model.token_embedding.weight             # shared, not copied
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())                         # it can still be trained
    assert isinstance(model.head, nn.Linear) and model.head.weight is model.token_embedding.weight
    ids = torch.randint(40, (2, 16))
    assert (small(ids) - model(ids)).norm() < 0.2 * model(ids).norm()


def test_a_model_is_quantized_once(model):
    small = ch08.quantized(model, ch08.Int8Linear)
    with pytest.raises(ValueError, match="no plain linear layer left"):
        ch08.quantized(small, ch08.Int8Linear)


@pytest.mark.parametrize("layer", [ch08.Int8Linear, ch08.Int4Linear, ch08.PackedInt8Linear, ch08.PackedLinear])
def test_the_engine_serves_quantized_models_as_they_are_alone(model, layer):
    small = ch08.quantized(model, layer)
    engine = ch08.Engine(small, 3)
    requests = [engine.submit(ch08.Request([i + 1, 5], 8)) for i in range(5)]
    ch08.run(engine)
    for request in requests:
        row = list(request.prompt)
        for token in request.new_ids:
            with torch.no_grad():
                logits = small(torch.tensor([row]))[0, -1]
            best = logits.max()
            assert best - logits[token] < 1e-2                         # an input's rounding may differ by what else is in its row
            row.append(token)


@torch.no_grad()
def test_the_engine_serves_lora_layers(model):
    adapted = ch06.add_lora(copy.deepcopy(model), rank=2)
    for module in adapted.modules():
        if isinstance(module, ch06.LoRALinear):
            nn.init.normal_(module.b, std=0.2)
    request = ch08.Request([1, 2, 3], 8)
    engine = ch08.Engine(adapted, 2)
    engine.submit(request)
    ch08.run(engine)
    merged = ch06.merge_lora(copy.deepcopy(adapted))
    again = ch08.Request([1, 2, 3], 8)
    engine = ch08.Engine(merged, 1)
    engine.submit(again)
    ch08.run(engine)
    assert request.new_ids == again.new_ids
