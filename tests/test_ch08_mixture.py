"""The bonus of mixtures: the router, the balance loss by hand, the mixture against a loop, and the recorded study."""

import json
from dataclasses import replace

import pytest
import torch

from tests.support import ROOT, program

FOLDER = "ch08/04_bonus_mixture-of-experts"
moe = program(f"{FOLDER}/moe.py")
SHAPE = moe.MixtureConfig(40, 24, 16, 2, 2, "rms", "rope", "swiglu", False, n_experts=4, n_chosen=2)


def test_the_router_by_hand():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    experts, weights = moe.route(logits, 2)
    assert experts[0].tolist() == [1, 2] and experts[1, 0] == 2
    torch.testing.assert_close(weights[0], torch.tensor([1.0, 3.0, 2.0]).softmax(dim=0)[1:])
    assert moe.route(logits, 1)[1][0].item() == pytest.approx(weights[0, 0].item()) and weights.sum(dim=1).max() < 1


def test_the_balance_loss_is_1_when_even_and_the_number_of_experts_when_not():
    even = torch.eye(4) * 50
    assert moe.balance_loss(even, moe.route(even, 1)[0]).item() == pytest.approx(1, abs=1e-5)
    one = torch.tensor([[50.0, 0, 0, 0]] * 6)
    assert moe.balance_loss(one, moe.route(one, 1)[0]).item() == pytest.approx(4, abs=1e-5)
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]], requires_grad=True)              # shares 2/3 and 1/3
    p = logits.softmax(dim=-1).mean(dim=0)
    loss = moe.balance_loss(logits, moe.route(logits, 1)[0])
    assert loss.item() == pytest.approx((2 * (2 / 3 * p[0] + 1 / 3 * p[1])).item())
    loss.backward()
    assert logits.grad[:, 0].min() > 0                                        # it pushes away from the busier one


@pytest.mark.parametrize("n_chosen", [1, 2, 4])
def test_a_mixture_is_what_a_loop_over_tokens_says(n_chosen):
    torch.manual_seed(0)
    mixture, x = moe.Mixture(replace(SHAPE, n_chosen=n_chosen)), torch.randn(3, 7, 16)
    y = mixture(x)
    for token, out in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True):
        best = mixture.router(token).softmax(dim=-1).topk(n_chosen)
        expected = sum(w * mixture.experts[i](token) for i, w in zip(best.indices.tolist(), best.values, strict=True))
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert mixture.used.sum() == 21 * n_chosen


def test_one_expert_is_the_dense_model():
    config = replace(SHAPE, n_experts=1, n_chosen=1)
    torch.manual_seed(0)
    mixture, dense = moe.MixtureModel(config).eval(), moe.ModernModel(config).eval()
    state = {name.replace("experts.0.", ""): p for name, p in mixture.state_dict().items() if "router" not in name}
    dense.load_state_dict(state)
    ids = torch.randint(0, 40, (2, 24))
    torch.testing.assert_close(mixture(ids), dense(ids), atol=1e-6, rtol=1e-5)
    every, active = moe.n_weights(mixture)
    assert every == active == sum(p.numel() for p in mixture.parameters())


def test_the_balance_loss_is_added_while_training_only():
    model, ids = moe.MixtureModel(SHAPE), torch.randint(0, 40, (2, 24))
    plain = model.eval()(ids, targets=ids)
    with_balance = model.train()(ids, targets=ids)
    losses = torch.stack([block.feed_forward.loss for block in model.blocks]).mean()
    torch.testing.assert_close(with_balance - plain, 0.01 * losses, atol=1e-5, rtol=1e-3)
    with_balance.backward()
    assert all(block.feed_forward.router.weight.grad.abs().sum() > 0 for block in model.blocks)


def test_a_token_uses_its_share_of_the_experts():
    model = moe.MixtureModel(SHAPE)
    every, active = moe.n_weights(model)
    experts = sum(p.numel() for block in model.blocks for p in block.feed_forward.experts.parameters())
    assert every - active == experts // 2


@pytest.mark.parametrize(("change", "sentence"), [({"n_chosen": 5}, "a token uses 1 to all of them"),
                                                  ({"n_chosen": 0}, "n_chosen is 0"), ({"balance": -1.0}, "choose 0 or more")])
def test_numbers_that_cannot_be(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(SHAPE, **change)


def test_the_study_compares_models_that_use_as_much():
    study = program(f"{FOLDER}/study.py")
    recorded = json.loads((ROOT / FOLDER / "results.json").read_text(encoding="utf-8"))["runs"]
    assert list(recorded) == list(study.VARIANTS)
    dense = recorded["dense"]["1"]
    for name, rows in recorded.items():
        assert list(rows) == ["1", "2"]
        for row in rows.values():
            assert abs(row["used by a token"] / dense["used by a token"] - 1) < 0.02
            assert name == "dense" or row["weights"] > 1.5 * dense["weights"]
            assert all(sum(shares) == pytest.approx(1, abs=0.01) for shares in row["shares"])
