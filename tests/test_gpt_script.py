"""gpt.py runs alone, explains itself, and answers every mistake with one sentence."""

import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout

import pytest

from tests.support import ROOT, chapter

SCRIPT = ROOT / "ch04" / "01_main-chapter-code" / "gpt.py"


def run(*arguments, script=SCRIPT, **environment):
    env = {k: v for k, v in os.environ.items() if k not in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", "PYTHONPATH")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"} | environment
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, encoding="utf-8", env=env,
                          cwd=script.parent.parent, timeout=120, check=False)


def fails_with(result, sentence):
    assert result.returncode == 2
    assert sentence in result.stderr.splitlines()[-1], result.stderr
    assert "Traceback" not in result.stderr


def test_it_writes_and_says_what_it_is():
    result = run("--prompt", "Once upon a time", "Hello", "--max-new-tokens", "5")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("small: 7,242,624 parameters, random, on ")
    assert lines[1].startswith("- Once upon a time")
    assert result.stdout.count("\n- ") == 2
    assert lines[-1].startswith("10 tokens in ")


def test_the_same_seed_gives_the_same_text():
    gpt = chapter("ch04", "gpt")
    texts = []
    for seed in ("7", "7", "8"):
        with redirect_stdout(io.StringIO()) as out:
            assert gpt.main(["--max-new-tokens", "8", "--seed", seed]) == 0
        texts.append(out.getvalue().rsplit("\n", 2)[0])           # the last line is the time
    assert texts[0] == texts[1] != texts[2]


def test_help_explains_every_option():
    result = run("--help")
    assert result.returncode == 0
    for word in ("--prompt", "--size", "gpt2-xl", "--max-new-tokens", "--tokenizer", "--seed", "chapter 2 saved"):
        assert word in result.stdout


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--sise", "gpt2"], "unrecognized arguments: --sise gpt2"),
    (["--size", "gpt3"], "invalid choice: 'gpt3'"),
    (["--max-new-tokens", "-3"], "'-3' is not a whole number of at least 0"),
    (["--seed", "x"], "'x' is not a whole number"),
    (["--prompt", ""], "the prompt '' is empty; begin it with a token"),
    (["--prompt", "word " * 200], "has 201 tokens, the model's context is 128; shorten it"),
    (["--tokenizer", "no-such-folder"], "no-such-folder"),
])
def test_a_mistake_gets_one_sentence(arguments, sentence, capsys):
    gpt = chapter("ch04", "gpt")
    with pytest.raises(SystemExit) as stop:
        gpt.main(arguments)
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_an_unknown_option_fails_in_a_real_process_too():
    fails_with(run("--sise", "gpt2"), "unrecognized arguments: --sise gpt2")


def test_it_runs_alone_with_a_tokenizer_of_chapter_2(tmp_path):
    alone = tmp_path / "a folder" / "gpt.py"
    alone.parent.mkdir()
    shutil.copy(SCRIPT, alone)
    fails_with(run(script=alone), "GPT-2's vocabulary is not at hand")
    fails_with(run(script=alone, TIKTOKEN_CACHE_DIR=str(tmp_path)), "GPT-2's vocabulary is not at hand")
    chapter("ch02").train_bpe("the cat sat on the mat " * 50, 270, ["<|endoftext|>"]).save(tmp_path / "tokenizer")
    result = run("--tokenizer", str(tmp_path / "tokenizer"), "--prompt", "the cat", "--max-new-tokens", "3", script=alone)
    assert result.returncode == 0, result.stderr
    assert "- the cat" in result.stdout


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    fails_with(run("--tokenizer", str(tmp_path)), "tokenizer.json")


def test_the_library_part_is_the_notebooks():
    gpt, ch04 = chapter("ch04", "gpt"), chapter("ch04")
    assert gpt.count_parameters(gpt.GPT2_SIZES["gpt2"]) == ch04.count_parameters(ch04.GPT2_SIZES["gpt2"]) == 124_439_808
