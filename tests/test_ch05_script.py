"""gpt_train.py and gpt_generate.py: alone, under torchrun, and when something is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.support import ROOT, chapter
from tests.test_ch05_checkpoints import assert_equal_runs, checkpoints, fails

FOLDER = ROOT / "ch05" / "01_main-chapter-code"
TRAIN, GENERATE = FOLDER / "gpt_train.py", FOLDER / "gpt_generate.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SMALL = ["--layers", "2", "--heads", "2", "--channels", "16", "--context", "32", "--window", "16", "--batch", "8", "--warmup", "10",
         "--precision", "float64", "--tokens", str(50 * 8 * 16), "--log-every", "1", "--checkpoint-every", "10"]
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", PYTHONUTF8="1")
linux = pytest.mark.skipif(os.name == "nt", reason="torchrun's store and signals differ on Windows")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    from data.tales import generate_tales
    path = tmp_path_factory.mktemp("text") / "tales.txt"
    path.write_text("\n\n".join(text for _, text in generate_tales(60, seed=1)), encoding="utf-8")
    return path


@pytest.fixture
def gpt_train():
    return chapter("ch05", "gpt_train")


def run(command, *arguments, environment=ENVIRONMENT, timeout=900):
    return subprocess.run([*command, *map(str, arguments)], env=environment, capture_output=True, encoding="utf-8", timeout=timeout)


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in json.loads((out / "curve.json").read_text(encoding="utf-8"))]


# ---------------------------------------------------------------- several processes

@pytest.fixture(scope="module")
def runs(tmp_path_factory, text) -> Path:
    """Three runs with the same global batch: one process, two with DDP, two with FSDP2."""
    out = tmp_path_factory.mktemp("runs")
    assert chapter("ch05", "gpt_train").main(["--data", str(text), *SMALL, "--out", str(out / "one")]) == 0
    for name, more in {"ddp": [], "fsdp": ["--fsdp"]}.items():
        done = run(TORCHRUN, TRAIN, "--data", text, *SMALL, "--out", out / name, *more)
        assert done.returncode == 0, done.stderr
    return out


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_processes_equal_one(runs, name):
    one, two = losses(runs / "one"), losses(runs / name)
    assert len(one) == len(two) == 50
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5
    assert one[-1] < one[0] - 0.5
    ch05 = chapter("ch05")
    (a, _), (b, _) = (ch05.load_checkpoint(runs / which / "step-00000050") for which in ("one", name))
    assert a.head.weight.dtype == torch.float64
    torch.testing.assert_close(dict(a.named_parameters()), dict(b.named_parameters()), atol=1e-5, rtol=0)


def workers_of(job: subprocess.Popen) -> list[psutil.Process]:
    return [p for p in psutil.Process(job.pid).children(recursive=True) if "gpt_train.py" in " ".join(p.cmdline())]


@linux
@pytest.mark.slow
def test_a_killed_worker_restarts_from_the_last_checkpoint_and_loses_nothing(runs, tmp_path, text):
    out = tmp_path / "killed"
    job = subprocess.Popen([*TORCHRUN, "--max-restarts", "2", str(TRAIN), "--data", str(text), *SMALL, "--out", str(out)],
                           env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    try:
        deadline = time.monotonic() + 120
        while not checkpoints(out) and time.monotonic() < deadline:
            time.sleep(0.01)
        victim = workers_of(job)[1]
        victim.send_signal(signal.SIGKILL)
        assert checkpoints(out)[-1] < "step-00000050"                        # it had not got to the end
        said, _ = job.communicate(timeout=900)
    finally:
        job.kill()
    assert job.returncode == 0, said
    assert said.count("parameters, 50 steps, 2 x cpu") == 2                  # the first process has begun twice
    assert_equal_runs(runs / "ddp", out)


@linux
def test_each_attempt_meets_under_names_of_its_own(gpt_train, monkeypatch):
    """torchrun's store outlives a killed attempt; what that one wrote there must not be read by the next."""
    kept = gpt_train.dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    places = []
    for attempt in "01":
        for name, value in {"TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                            "MASTER_PORT": str(kept.port), "TORCHELASTIC_RESTART_COUNT": attempt}.items():
            monkeypatch.setenv(name, value)
        places += [gpt_train.meeting_place(), gpt_train.meeting_place()]
    places[0].set("address", "dead")
    assert places[1].check(["address"]) and not places[2].check(["address"]) and not places[3].check(["address"])
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert gpt_train.meeting_place() is None                                 # several machines count their restarts apart


@linux
@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(runs, tmp_path, text, gpt_train):
    shutil.copytree(runs / "fsdp" / "step-00000040", tmp_path / "moved" / "step-00000040")
    assert gpt_train.main(["--data", str(text), *SMALL, "--out", str(tmp_path / "moved"), "--resume"]) == 0
    a, b = losses(runs / "one"), losses(tmp_path / "moved")
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-5


@linux
@pytest.mark.slow
def test_an_odd_batch_on_two_processes_is_named(text, tmp_path):
    done = run(TORCHRUN, TRAIN, "--data", text, *SMALL, "--batch", 7, "--out", tmp_path / "odd")
    assert done.returncode != 0
    assert "--batch 7 can't be shared by 2 processes in 1 parts each; choose a multiple of 2" in done.stderr


def test_accumulated_parts_equal_the_whole_batch(gpt_train, text, tmp_path):
    curves = []
    for parts in ("1", "4"):
        out = tmp_path / parts
        assert gpt_train.main(["--data", str(text), *SMALL, "--accumulate", parts, "--out", str(out)]) == 0
        curves.append(losses(out))
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) < 1e-9


# ---------------------------------------------------------------- the command line

@pytest.mark.slow
def test_tales_from_nothing_to_the_checkers_verdict(tmp_path):
    done = run([sys.executable], TRAIN, "--layers", 1, "--heads", 2, "--channels", 16, "--tokens", 4_000, "--window", 64,
               "--batch", 4, "--out", tmp_path / "tales")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("44,272 parameters, 15 steps, 1 x ")
    assert lines[1].startswith("step 15: loss ")
    assert "combinations" in lines[1]
    assert "skeletons" in lines[1]
    assert lines[2].endswith("model")
    assert lines[3].endswith("%  all of them")
    model, tokenizer = chapter("ch05").load_pretrained(tmp_path / "tales" / "model")
    assert (model.config.n_layers, tokenizer.n_vocab) == (1, 2_048)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory, text) -> Path:
    """The finished model of a run on `text`."""
    out = tmp_path_factory.mktemp("small") / "run"
    assert chapter("ch05", "gpt_train").main(["--data", str(text), *SMALL, "--tokens", "1280", "--out", str(out)]) == 0
    return out / "model"


def test_a_run_starts_from_a_trained_model(gpt_train, text, small_model, tmp_path):
    more = ["--tokens", "1280", "--start", str(small_model), "--layers", "9", "--learning-rate", "1e-12"]
    assert gpt_train.main(["--data", str(text), *SMALL, *more, "--out", str(tmp_path / "run")]) == 0
    ch05 = chapter("ch05")
    (a, _), (b, _) = (ch05.load_checkpoint(folder) for folder in (small_model, tmp_path / "run" / "model"))
    assert a.config == b.config                                                # --layers 9 has no say: the shape is the model's
    torch.testing.assert_close(dict(a.named_parameters()), dict(b.named_parameters()), atol=1e-9, rtol=0)


def test_the_model_to_start_from_has_to_fit(gpt_train, text, small_model, tmp_path, capsys):
    start = ["--data", str(text), *SMALL, "--out", str(tmp_path / "run"), "--start", str(small_model)]
    fails(gpt_train, capsys, [*start, "--context", "64", "--window", "64"], "is longer than")
    fails(gpt_train, capsys, [*start, "--tokenizer", "gpt2"], "was trained with another tokenizer than gpt2's")
    fails(gpt_train, capsys, [*start[:-1], str(tmp_path / "nothing")], "nothing")


def test_gpt2s_tokenizer_is_written_beside_the_model(gpt_train, text, tmp_path):
    arguments = ["--data", str(text), *SMALL, "--tokens", "1280", "--tokenizer", "gpt2", "--out", str(tmp_path / "run")]
    assert gpt_train.main(arguments) == 0
    model, tokenizer = chapter("ch05").load_pretrained(tmp_path / "run" / "model")
    assert model.config.vocab_size == tokenizer.n_vocab == 50_257
    assert tokenizer.encode("Hello world") == [15496, 995]


def test_help_explains_every_option():
    done = run([sys.executable], TRAIN, "--help")
    assert done.returncode == 0
    for word in ("torchrun", "--data", "--level", "--tokenizer", "--accumulate", "--precision", "--resume", "--fsdp"):
        assert word in done.stdout


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--data", "no-such-file"], "--data no-such-file is not there; name text files, or folders that hold .txt or .md files"),
    (["--tokenizer", "no-such-folder"], "there is no tokenizer.json in 'no-such-folder'"),
    (["--heads", "3"], "n_channels is 16 and n_heads 3; make n_channels a multiple of n_heads"),
    (["--batch", "8", "--accumulate", "3"], "--batch 8 can't be shared by 1 processes in 3 parts each; choose a multiple of 3"),
    (["--checkpoint-every", "15", "--log-every", "10"], "--checkpoint-every 15 is no multiple of --log-every 10"),
    (["--window", "64"], "--window 64 is longer than --context 32; lengthen the context"),
    (["--fsdp"], "start this with torchrun"),
    (["--batch", "4096"], "but a batch needs 4096; use more text, a shorter context or a smaller batch"),
])
def test_a_mistake_gets_one_sentence(gpt_train, text, tmp_path, capsys, arguments, sentence):
    fails(gpt_train, capsys, ["--data", str(text), *SMALL, "--out", str(tmp_path / "run"), *arguments], sentence)


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--lairs", "3"], "unrecognized arguments: --lairs 3"),
    (["--batch", "0"], "'0' is not a whole number of at least 1"),
    (["--tokens", "nan"], "'nan' is not a number above 0"),
    (["--level", "hard"], "invalid choice: 'hard'"),
])
def test_argparse_refuses(gpt_train, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        gpt_train.main(arguments)
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("fill", ["nothing", "an empty file", "another kind of file"])
def test_an_empty_data_folder(gpt_train, tmp_path, capsys, fill):
    folder = tmp_path / "texts"
    folder.mkdir()
    if fill != "nothing":
        (folder / ("a.txt" if fill == "an empty file" else "a.png")).write_bytes(b"" if fill == "an empty file" else b"png")
    fails(gpt_train, capsys, ["--data", str(folder), *SMALL, "--out", str(tmp_path / "run")],
          f"--data {folder} holds no text; name .txt or .md files, or folders with some")


def test_a_text_that_is_not_utf8(gpt_train, tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes("Fr\u00fch am Morgen".encode("latin-1") * 100)
    arguments = ["--data", str(tmp_path / "latin.txt"), *SMALL, "--out", str(tmp_path / "run")]
    fails(gpt_train, capsys, arguments, "latin.txt is not UTF-8")
    assert not [p for p in (tmp_path / "shards").iterdir() if p.suffix != ".lock"]


def test_ctrl_c_leaves_a_sentence(gpt_train, text, tmp_path, capsys, monkeypatch):
    def interrupted(run, step):
        raise KeyboardInterrupt
    monkeypatch.setattr(gpt_train.Run, "save", interrupted)
    arguments = ["--data", str(text), *SMALL, "--out", str(tmp_path / "run")]
    fails(gpt_train, capsys, arguments, "stopped; --resume goes on from the last checkpoint")


@pytest.mark.slow
def test_the_script_runs_alone(tmp_path, text):
    """Outside the course it needs a tokenizer and a text, and nothing else."""
    alone = tmp_path / "a folder"
    alone.mkdir()
    shutil.copy(TRAIN, alone)
    shutil.copytree(ROOT / "models" / "tokenizer", alone / "tokenizer")
    command = [sys.executable, "gpt_train.py", "--data", str(text), *SMALL, "--tokens", "1280", "--tokenizer", "tokenizer",
               "--out", "run"]
    done = subprocess.run(command, cwd=alone, env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    assert (alone / "run" / "model" / "model.safetensors").exists()


# ---------------------------------------------------------------- gpt_generate.py

@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A random model with the course's tokenizer, whose choices differ."""
    ch05, folder = chapter("ch05"), tmp_path_factory.mktemp("models") / "random"
    torch.manual_seed(0)
    model = ch05.GPTModel(ch05.GPTConfig(2_048, 64, 16, 2, 2))
    for matrix in (p for p in model.parameters() if p.dim() == 2):
        torch.nn.init.normal_(matrix, std=0.4)
    ch05.save_checkpoint(folder, model, ch05.load_tokenizer(ROOT / "models" / "tokenizer"))
    return folder


@pytest.fixture
def gpt_generate():
    return chapter("ch05", "gpt_generate")


def written(gpt_generate, capsys, folder: Path, *arguments: str) -> str:
    assert gpt_generate.main(["--model", str(folder), "--max-new-tokens", "20", *arguments]) == 0
    return capsys.readouterr().out


def test_it_streams_what_generate_cached_writes(gpt_generate, capsys, model_folder):
    arguments = ("--prompt", "Once upon a time", "The lamp", "--samples", "2", "--temperature", "0")
    out = written(gpt_generate, capsys, model_folder, *arguments)
    texts = out.rstrip("\n").split("\n\nOnce")[0]
    ch05 = chapter("ch05")
    model, tokenizer = ch05.load_pretrained(model_folder)
    row, = ch05.generate_cached(model, [[tokenizer.eot_token, *tokenizer.encode("Once upon a time")]], 20, tokenizer.eot_token)
    assert texts == tokenizer.decode([i for i in row if i != tokenizer.eot_token])
    assert out.count("Once upon a time") == 2
    assert out.count("The lamp") == 2


def test_every_token_appears_when_it_is_chosen(gpt_generate, model_folder, monkeypatch, capsys):
    seen, real = [], gpt_generate.sample_next

    def choose(*arguments, **options):
        seen.append(len(capsys.readouterr().out))
        return real(*arguments, **options)

    monkeypatch.setattr(gpt_generate, "sample_next", choose)
    written(gpt_generate, capsys, model_folder, "--prompt", "Once")
    assert sum(n > 0 for n in seen) > 10                                     # something new before nearly every choice


def test_characters_come_whole(gpt_generate, capsys):
    tokenizer = chapter("ch05").load_tokenizer(ROOT / "models" / "tokenizer")
    stream = gpt_generate.Stream(tokenizer)
    for token_id in tokenizer.encode("Häuser 🙂!"):
        stream.show([token_id])
    stream.show([], last=True)
    assert capsys.readouterr().out == "Häuser 🙂!"
    stream.show(tokenizer.encode("🙂")[:2])
    stream.show([], last=True)
    assert capsys.readouterr().out == "\ufffd"


def test_the_seed_and_the_options_decide(gpt_generate, capsys, model_folder):
    texts = [written(gpt_generate, capsys, model_folder, *arguments) for arguments in (
        ("--seed", "1"), ("--seed", "1"), ("--seed", "2"), ("--seed", "1", "--top-k", "1"), ("--temperature", "0"),
        ("--seed", "1", "--top-p", "0.1"), ("--temperature", "0", "--repetition-penalty", "5"))]
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4]
    assert len(set(texts)) >= 4


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--model", "gpt3"], "there is no model 'gpt3' here; name one of tales-small, "),
    (["--model", str(ROOT / "models")], "is no checkpoint: config.json is missing"),
    (["--temperature", "-1"], "temperature is -1.0; choose 0"),
    (["--top-p", "0"], "top_p is 0.0; choose a share above 0"),
    (["--min-p", "2"], "min_p is 2.0; choose a share from 0"),
    (["--prompt", "word " * 200], "tokens, the model's context is 64; shorten it"),
])
def test_generate_answers_a_mistake_with_one_sentence(gpt_generate, capsys, model_folder, arguments, sentence):
    assert gpt_generate.main(["--model", str(model_folder), *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("gpt_generate.py: ")
    assert sentence in said[0]


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--max-new-tokens", "0"], "'0' is not a whole number of at least 1"),
    (["--repetition-penalty", "0"], "--repetition-penalty 0.0 must be above 0; 1 changes nothing"),
    (["--modell", "x"], "unrecognized arguments: --modell x"),
])
def test_generate_refuses(gpt_generate, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        gpt_generate.main(arguments)
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_generate_runs_alone(tmp_path, model_folder):
    shutil.copy(GENERATE, tmp_path)
    done = run([sys.executable], tmp_path / "gpt_generate.py", "--model", model_folder, "--max-new-tokens", 5)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("5 tokens, ")
    done = run([sys.executable], tmp_path / "gpt_generate.py")
    assert done.returncode == 2
    assert done.stderr.strip() == "gpt_generate.py: tales-base lies in the course's folder models, not here; pass a folder"
