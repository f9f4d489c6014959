"""The benchmark of the server counts what it says, and says honestly what was reached."""

import re

import pytest

from tools import bench_serve


@pytest.mark.parametrize(("target", "verdict"), [(1e-9, "reached"), (1e9, "not reached")])
def test_the_gain_is_judged(capsys, monkeypatch, target, verdict):
    monkeypatch.setattr(bench_serve, "TARGET", target)
    bench_serve.bench(["--waiting", "4"], 4, 6, 1)
    said = capsys.readouterr().out
    assert re.search(rf"target {re.escape(str(target))} x one by one: [\d.]+, {verdict}", said)
    assert re.search(r"4 at once +\d+ tokens/s, first token after \d+ ms", said)


def test_a_stream_that_is_cut_is_no_result(monkeypatch):
    with pytest.raises(OSError):
        bench_serve.stream(9, 0, 4, [])                                       # nobody listens there
