"""Run the benchmarks `tools/bench_<name>.py`; each prints its own table of ratios."""

import importlib
from pathlib import Path


def available() -> list[str]:
    """The names of all benchmarks."""
    return sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py"))


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; returns an exit status."""
    unknown = sorted(set(names) - set(available()))
    if unknown:
        print(f"bench: there is no benchmark {', '.join(unknown)}; choose from {', '.join(available())}")
        return 2
    for name in names or available():
        importlib.import_module(f"tools.bench_{name}").main()
    return 0
