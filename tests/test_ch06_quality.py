"""Chapter 6, intervals, calibration and the threshold: values by hand and published ones, no cheaper threshold, errors that "
  "help."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.support import chapter

ch06 = chapter("ch06")
wilson_interval, fit_temperature, best_threshold = ch06.wilson_interval, ch06.fit_temperature, ch06.best_threshold
CLAIMS, TRUTH = torch.tensor([0.2, 0.4, 0.6, 0.8]), torch.tensor([0, 1, 0, 1])

# ----------------------------------------------------------------------------------------------------- wilson_interval


def test_interval_by_hand():
    assert wilson_interval(4, 4, z=2) == (0.5, 1.0)
    assert wilson_interval(2, 4, z=2) == pytest.approx((0.5 - 0.5**1.5, 0.5 + 0.5**1.5))


@pytest.mark.parametrize(("right", "n", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
                                                         (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_interval_is_the_published_one(right, n, low, high):
    """Newcombe (1998), table I, score method without correction."""
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.5, 4))
def test_interval_holds_the_share_and_mirrors(n, part, z):
    right = round(part * n)
    low, high = wilson_interval(right, n, z)
    assert 0 <= low <= right / n + 1e-12 and right / n - 1e-12 <= high <= 1
    assert (1 - high, 1 - low) == pytest.approx(wilson_interval(n - right, n, z), abs=1e-9)


def test_more_messages_narrow_the_interval():
    widths = [high - low for low, high in (wilson_interval(9 * n, 10 * n) for n in (1, 4, 16, 64))]
    assert widths == sorted(widths, reverse=True) and widths[2] / widths[3] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(("right", "n"), [(5, 4), (-1, 4), (0, 0), (3, -3)])
def test_no_share_is_an_error(right, n):
    with pytest.raises(ValueError, match=f"{right} of {n} is no share"):
        wilson_interval(right, n)


# ----------------------------------------------------------------------------------------------------- fit_temperature


@pytest.mark.parametrize(("factor", "expected"), [(2, 2), (1, 1), (0.5, 0.5)])
def test_temperature_by_hand(factor, expected):
    """Three of four are spam, which is odds of 3 to 1, which is a logit of ln 3."""
    logits = torch.tensor([[0.0, factor * math.log(3)]] * 4)
    assert fit_temperature(logits, torch.tensor([1, 1, 1, 0])) == pytest.approx(expected, rel=0.012)


def test_temperature_scales_with_the_logits_and_never_costs():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 3, generator=g)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=g)[:, 0]
    t = fit_temperature(logits, labels)
    assert 0.8 < t < 1.25
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * t, rel=0.03)
    bold = 3 * logits
    assert F.cross_entropy(bold / fit_temperature(bold, labels), labels) < F.cross_entropy(bold, labels)


def test_temperature_stays_within_its_candidates():
    perfect = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert fit_temperature(perfect, torch.tensor([0, 1])) == pytest.approx(0.1)
    assert fit_temperature(perfect, torch.tensor([1, 0])) == pytest.approx(10)


@pytest.mark.parametrize(("logits", "labels", "message"), [
    (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), "N of at least 1"),
    (torch.zeros(3, 2), torch.zeros(2, dtype=torch.long), r"\(3, 2\) and labels \(2,\)"),
    (torch.zeros(3), torch.zeros(3, dtype=torch.long), r"pass \(N, K\)"),
    (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "from 0 to 2; the 2 classes are 0 to 1"),
    (torch.zeros(3, 2), torch.tensor([0, 1, -1]), "from -1 to 1"),
])
def test_temperature_of_bad_input_is_an_error(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)


# ------------------------------------------------------------------------------------------------------ best_threshold


def price(p, labels, threshold, false_alarm, miss):
    """The cost counted one by one."""
    held = p.double() >= threshold
    return false_alarm * (held & (labels == 0)).sum().item() + miss * (~held & (labels == 1)).sum().item()


@pytest.mark.parametrize(("false_alarm", "miss", "expected"), [(10, 1, 0.7), (1, 10, 0.3), (1, 1, 0.3)])
def test_threshold_by_hand(false_alarm, miss, expected):
    assert best_threshold(CLAIMS, TRUTH, false_alarm, miss) == pytest.approx(expected)


def test_threshold_lies_half_way_and_at_the_ends():
    assert best_threshold(torch.tensor([0.1, 0.9]), torch.tensor([0, 1])) == pytest.approx(0.5)
    assert best_threshold(torch.tensor([0.4, 0.6]), torch.tensor([1, 1])) == pytest.approx(0.2)       # hold all back
    assert best_threshold(torch.tensor([0.4, 0.6]), torch.tensor([0, 0])) == pytest.approx(0.8)       # let all through


messages = st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 1)), min_size=1, max_size=30)
costs = st.sampled_from([0.25, 0.5, 1.0, 2.0, 10.0])


@given(messages, costs, costs, st.lists(st.floats(0, 1), max_size=10))
def test_no_threshold_is_cheaper(rows, false_alarm, miss, others):
    p, labels = torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
    best = best_threshold(p, labels, false_alarm, miss)
    cheapest = price(p, labels, best, false_alarm, miss)
    assert 0 <= best <= 1
    assert all(cheapest <= price(p, labels, other, false_alarm, miss) for other in [*others, *p.tolist(), 0.0, 1.0])


@given(messages)
def test_dearer_false_alarms_never_lower_the_threshold(rows):
    p, labels = torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
    lines = [best_threshold(p, labels, false_alarm) for false_alarm in (0.1, 1, 10, 100)]
    assert lines == sorted(lines)


def test_calibrated_claims_lead_to_the_formula():
    g = torch.Generator().manual_seed(0)
    p = torch.rand(40_000, generator=g)
    line = best_threshold(p, torch.bernoulli(p, generator=g).long(), false_alarm=4)
    assert abs(line - 4 / 5) < 0.05


@pytest.mark.parametrize(("p", "labels", "settings", "message"), [
    ([], [], {}, "N of at least 1"),
    ([0.5, 0.5], [1], {}, r"\(2,\) and labels \(1,\)"),
    ([[0.5, 0.5]], [[0, 1]], {}, r"pass \(N,\)"),
    ([-2.0, 3.0], [0, 1], {}, r"from -2 to 3; pass softmax"),
    ([0.5, math.nan], [0, 1], {}, "pass softmax"),
    ([0.5, 0.6], [0, 2], {}, "label 2 is neither 0 nor 1"),
    ([0.5, 0.6], [0, 1], {"miss": -1}, "costs are 1.0 and -1"),
])
def test_threshold_of_bad_input_is_an_error(p, labels, settings, message):
    with pytest.raises(ValueError, match=message):
        best_threshold(torch.tensor(p), torch.tensor(labels, dtype=torch.long), **settings)
