"""Ask a judge which of two models answers better: any server that speaks OpenAI's chat format, or the one beside this file.

    python local_judge.py                                                  a judge on this machine, in another terminal
    python pairwise.py tales-small models/tales-sft                        two models of the course, that judge
    python pairwise.py tales-small models/tales-sft --judge http://127.0.0.1:8080/v1 --model my-judge

Each pair is judged twice, the answers in either order. A judge that says "the first" both times has said nothing about the
answers, and that is counted. Since the course's requests have known facts, the judge itself is measured, too: how often does it
side with the true score? A key, if the server wants one, is read from the environment variable JUDGE_API_KEY.
"""

import argparse
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course  # noqa: E402

course.setup("ch07/01_main-chapter-code")
import torch  # noqa: E402

from ch07 import answers_of, win_rate  # noqa: E402
from data.instructions import judge as true_judge  # noqa: E402
from data.instructions import make_instructions  # noqa: E402
from data.preferences import RUBRIC  # noqa: E402
from previous_chapters import load_pretrained, wilson_interval  # noqa: E402

QUESTION = """Two assistants have answered the same request. Judge by this rubric:

{rubric}

[Request]
{request}
[/Request]
[Answer A]
{a}
[/Answer A]
[Answer B]
{b}
[/Answer B]

Which answer is better? Reply with one word: A, B or tie."""


def question(request: str, a: str, b: str) -> str:
    """What the judge is asked."""
    return QUESTION.format(rubric=RUBRIC.strip(), request=request, a=a, b=b)


def read_verdict(reply: str) -> str:
    """"A", "B", "tie" or, for a reply that names none of them or more than one, "unreadable"."""
    said = set(re.findall(r"\b(A|B|tie)\b", re.sub(r"\b(?:TIE|Tie)\b", "tie", reply)))
    return said.pop() if len(said) == 1 else "unreadable"


def ask_server(address: str, model: str, text: str, timeout: float = 60.0) -> str:
    """One reply of an OpenAI-compatible server at `address` (ends with /v1), without sampling.

    Raises ValueError, naming the address, for a server that can't be reached, refuses, or replies with something else.
    """
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8}
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("JUDGE_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    where = address.rstrip("/") + "/chat/completions"
    try:
        request = urllib.request.Request(where, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=timeout) as response:
            content = json.load(response)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace")
        raise ValueError(f"{where} answered with status {error.code}: {said}; check --model, and JUDGE_API_KEY") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ValueError(f"could not reach {where} ({getattr(error, 'reason', error)}); is the judge running there?") from None
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{where} did not reply in OpenAI's format ({type(error).__name__}: {error}); does the address end with "
                         "/v1?") from None
    if not isinstance(content, str):
        raise ValueError(f"{where} replied with {content!r} instead of a text; it can't serve as a judge")
    return content


# ---------------------------------------------------------------- judging pairs

@dataclass(frozen=True)
class Verdict:
    """What a judge said of one pair, the first model's answer in front and then behind, in terms of the models: "1", "2", "tie"."""

    in_front: str
    behind: str

    @property
    def outcome(self) -> float:
        """1 if the second model wins both times, 0 if the first does, else a half: a verdict that turns with the order is a tie."""
        return {("2", "2"): 1.0, ("1", "1"): 0.0}.get((self.in_front, self.behind), 0.5)


def judge_pair(ask: Callable[[str], str], request: str, first: str, second: str) -> Verdict:
    """Ask twice, in either order. Equal answers are a tie that nobody need be asked about."""
    if first.strip() == second.strip():
        return Verdict("tie", "tie")
    straight = read_verdict(ask(question(request, first, second)))
    turned = read_verdict(ask(question(request, second, first)))
    return Verdict({"A": "1", "B": "2"}.get(straight, straight), {"A": "2", "B": "1"}.get(turned, turned))


@dataclass(frozen=True)
class Report:
    """All verdicts on two models; `truth` is the true score of the second minus that of the first, (N,)."""

    verdicts: Sequence[Verdict]
    truth: torch.Tensor

    @property
    def asked(self) -> list[Verdict]:
        """The verdicts on answers that differ."""
        return [v for v in self.verdicts if (v.in_front, v.behind) != ("tie", "tie")]

    def front_wins(self) -> tuple[int, int]:
        """How often the answer in front was called better, of all clear verdicts."""
        words = Counter(v.in_front for v in self.asked), Counter(v.behind for v in self.asked)
        return words[0]["1"] + words[1]["2"], sum(part[who] for part in words for who in "12")

    def turned(self) -> tuple[int, int]:
        """How often the verdict went with the place and not with the answer, of the pairs with two clear verdicts."""
        clear = [v for v in self.asked if {v.in_front, v.behind} <= {"1", "2"}]
        return sum(v.in_front != v.behind for v in clear), len(clear)

    def agrees(self) -> tuple[int, int]:
        """How often a judge that stuck to its verdict sides with the true score, of the pairs in which that differs."""
        sure = [(v.outcome, d) for v, d in zip(self.verdicts, self.truth.tolist(), strict=True) if v.outcome != 0.5 and d]
        return sum((outcome == 1) == (d > 0) for outcome, d in sure), len(sure)

    def lines(self, names: Sequence[str]) -> list[str]:
        """The report, to print."""
        outcomes = torch.tensor([v.outcome for v in self.verdicts])
        win, half = win_rate(outcomes, torch.full_like(outcomes, 0.5))
        true_win, true_half = win_rate(self.truth, torch.zeros_like(self.truth))
        unreadable = sum((v.in_front, v.behind).count("unreadable") for v in self.verdicts)

        def share(name: str, counts: tuple[int, int], note: str) -> str:
            low, high = wilson_interval(*counts) if counts[1] else (0.0, 1.0)
            return f"{name:34s} {counts[0]:4d} of {counts[1]:4d}, interval {low:.0%} to {high:.0%}  ({note})"

        return [f"{names[1]} against {names[0]}, {len(self.verdicts)} requests, ties counted half",
                f"  wins by the judge                {win:.3f} +- {half:.3f}",
                f"  wins by the true score           {true_win:.3f} +- {true_half:.3f}",
                share("  the answer in front is preferred", self.front_wins(), "half: no position bias"),
                share("  the verdict turns with the order", self.turned(), "none: it reads the answers"),
                share("  sides with the true score", self.agrees(), "half: it might as well toss a coin"),
                f"  unreadable replies               {unreadable:4d} of {2 * len(self.asked):4d}"]


def compare(ask: Callable[[str], str], requests: Sequence[dict], first: Sequence[str], second: Sequence[str]) -> Report:
    """Judge two lists of answers to the same records of instructions."""
    prompts = ["\n\n".join(filter(None, (r["instruction"], r["input"]))) for r in requests]
    verdicts = [judge_pair(ask, *three) for three in zip(prompts, first, second, strict=True)]
    scores = [[true_judge(r, text).score for r, text in zip(requests, texts, strict=True)] for texts in (first, second)]
    return Report(verdicts, torch.tensor(scores[1]) - torch.tensor(scores[0]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, metavar="MODEL", help="a bundled model or a folder")
    parser.add_argument("--judge", default="http://127.0.0.1:8007/v1", metavar="ADDRESS", help="where the judge is (the local one)")
    parser.add_argument("--model", default="local-judge", metavar="NAME", help="which model the server shall use (local-judge)")
    parser.add_argument("--requests", type=int, default=84, metavar="N", help="how many held-out requests (84)")
    options = parser.parse_args(arguments)
    try:
        requests = list(make_instructions(options.requests, 9, "simple", "held-out wordings"))
        answers = [answers_of(*load_pretrained(name), requests) for name in options.models]
        report = compare(lambda text: ask_server(options.judge, options.model, text), requests, *answers)
        print("\n".join(report.lines(options.models)))
        return 0
    except (ValueError, OSError) as error:
        print(f"pairwise.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
