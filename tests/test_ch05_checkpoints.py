"""A killed run goes on as if it had not been; what is damaged, foreign or full is named, and the last good checkpoint stays."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.support import ROOT, chapter

SCRIPT = ROOT / "ch05" / "01_main-chapter-code" / "gpt_train.py"
SMALL = ["--layers", "1", "--heads", "2", "--channels", "16", "--context", "32", "--window", "16", "--batch", "4", "--warmup", "10",
         "--dropout", "0.1", "--log-every", "5", "--checkpoint-every", "10"]
TOKENS_A_STEP = 16 * 4
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", PYTHONUTF8="1")
posix = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")


def steps(n: int) -> list[str]:
    return ["--tokens", str(n * TOKENS_A_STEP)]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Some tales in a file."""
    from data.tales import generate_tales
    path = tmp_path_factory.mktemp("text") / "tales.txt"
    path.write_text("\n\n".join(text for _, text in generate_tales(60, seed=1)), encoding="utf-8")
    return path


@pytest.fixture
def gpt_train():
    """The script, in this process."""
    return chapter("ch05", "gpt_train")


def command(text: Path, out: Path, n_steps: int, *more: str) -> list[str]:
    return ["--data", str(text), *SMALL, *steps(n_steps), "--out", str(out), *more]


def same(a, b) -> bool:
    """Whether two nested states are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def checkpoints(out: Path) -> list[str]:
    return sorted(p.name for p in out.glob("step-*"))


def assert_equal_runs(one: Path, other: Path) -> None:
    """The last checkpoints of both agree in every bit of the weights and of the state, and so do the curves."""
    assert checkpoints(one) == checkpoints(other)
    newest = checkpoints(one)[-1]
    weights = [(out / newest / "model.safetensors").read_bytes() for out in (one, other)]
    assert weights[0] == weights[1]
    states = [torch.load(out / newest / "training.pt", weights_only=True) for out in (one, other)]
    assert same(*states)
    assert (one / "curve.json").read_bytes() == (other / "curve.json").read_bytes()


# ---------------------------------------------------------------- killed and resumed

def run_with_kills(arguments: list[str], out: Path, n_kills: int, rng: random.Random) -> int:
    """Run, kill soon after a new checkpoint, resume, and so on; returns how many times it was really killed."""
    killed = 0
    while True:
        had = checkpoints(out)[-1:]
        process = subprocess.Popen([sys.executable, str(SCRIPT), *arguments, "--resume"], env=ENVIRONMENT,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
        if killed == n_kills:
            said = process.communicate(timeout=300)[0]
            assert process.returncode == 0, said
            return killed
        deadline = time.monotonic() + 120
        while process.poll() is None and checkpoints(out)[-1:] == had and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[0]
            return killed
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += 1


@posix
@pytest.mark.slow
@pytest.mark.parametrize("n_kills", [5, pytest.param(20, marks=pytest.mark.full)])
def test_killed_at_random_and_resumed_is_never_killed(tmp_path, text, gpt_train, n_kills):
    n_steps = 150 * n_kills
    assert gpt_train.main(command(text, tmp_path / "calm", n_steps)) == 0
    arguments = command(text, tmp_path / "killed", n_steps)
    assert run_with_kills(arguments, tmp_path / "killed", n_kills, random.Random(n_kills)) == n_kills
    assert_equal_runs(tmp_path / "calm", tmp_path / "killed")


DIES_WHILE_WRITING = """
import os, runpy, signal, sys
path, call = sys.argv[1], int(sys.argv[2])
sys.argv[1:3] = []
real, calls = os.fsync, [0]
def fsync(number):
    calls[0] += 1
    if calls[0] == call:
        os.kill(os.getpid(), signal.SIGKILL)
    real(number)
os.fsync = fsync
sys.argv[0] = path
runpy.run_path(path, run_name="__main__")
"""


@posix
@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(tmp_path, text, gpt_train):
    """The unfinished folder doesn't count, and is swept away."""
    assert gpt_train.main(command(text, tmp_path / "calm", 40)) == 0
    out = tmp_path / "killed"
    arguments = command(text, out, 40, "--resume")
    one_save = 6                                                             # files in a checkpoint
    done = subprocess.run([sys.executable, "-c", DIES_WHILE_WRITING, str(SCRIPT), str(2 * one_save), *arguments], env=ENVIRONMENT,
                          capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert checkpoints(out) == ["step-00000010"]
    assert [p.name for p in out.glob(".step-00000020.*.tmp")]
    assert gpt_train.main(arguments) == 0
    assert not list(out.glob(".*.tmp"))
    assert_equal_runs(tmp_path / "calm", out)


def test_resumed_twice_in_float64_and_after_the_end(tmp_path, text, gpt_train, monkeypatch):
    more = ["--precision", "float64"]
    assert gpt_train.main(command(text, tmp_path / "calm", 30, *more)) == 0
    monkeypatch.setattr(gpt_train.Run, "finish", lambda run: None)
    monkeypatch.setattr(gpt_train.Run, "save", stop_after(gpt_train.Run.save, 1))
    out = tmp_path / "stopped"
    for _ in range(2):
        with pytest.raises(Stopped):
            gpt_train.main(command(text, out, 30, "--resume", *more))
    monkeypatch.undo()
    assert gpt_train.main(command(text, out, 30, "--resume", *more)) == 0
    assert_equal_runs(tmp_path / "calm", out)
    assert gpt_train.main(command(text, out, 30, "--resume", *more)) == 0        # nothing left to do
    assert_equal_runs(tmp_path / "calm", out)


class Stopped(BaseException):
    """What ends a run in these tests, and what nothing catches."""


def stop_after(save, n: int):
    """A `Run.save` that raises Stopped after n checkpoints."""
    def saving(run, step):
        save(run, step)
        run.saved = getattr(run, "saved", 0) + 1
        if run.saved == n:
            raise Stopped
    return saving


# ---------------------------------------------------------------- what can't be resumed

@pytest.fixture(scope="module")
def finished(tmp_path_factory, text) -> Path:
    """A run of 20 steps, to copy and to spoil."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert chapter("ch05", "gpt_train").main(command(text, out, 20)) == 0
    return out


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def fails(gpt_train, capsys, arguments: list[str], sentence: str) -> None:
    assert gpt_train.main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("gpt_train.py: ")
    assert sentence in said, said


def test_a_damaged_checkpoint_is_named_and_the_one_before_works(gpt_train, copied, text, capsys):
    newest = copied / "step-00000020"
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    fails(gpt_train, capsys, command(text, copied, 20, "--resume"),
          "step-00000020' can't be used: model.safetensors is damaged (its sha256 isn't the recorded one); use another checkpoint; "
          "remove that folder, and --resume goes on from the one before")
    shutil.rmtree(newest)
    assert gpt_train.main(command(text, copied, 20, "--resume")) == 0


@pytest.mark.parametrize(("options", "sentence"), [
    (["--learning-rate", "1e-2"], "belongs to a run with learning_rate 0.003, not 0.01; use the same settings, or another --out"),
    (["--seed", "1"], "belongs to a run with seed 0, not 1"),
    (["--batch", "8"], "belongs to a run with batch 4, not 8"),
    (["--channels", "32"], "holds a model of shape GPTConfig(vocab_size=2048, context_length=32, n_channels=16,"),
])
def test_other_settings_are_refused(gpt_train, copied, text, capsys, options, sentence):
    fails(gpt_train, capsys, command(text, copied, 20, "--resume", *options), sentence)


def test_another_tokenizer_is_refused(gpt_train, copied, text, capsys, tmp_path):
    chapter("ch02").train_bpe(text.read_text(encoding="utf-8"), 400, ["<|endoftext|>"]).save(tmp_path / "other")
    fails(gpt_train, capsys, command(text, copied, 20, "--resume", "--tokenizer", str(tmp_path / "other")),
          f"was trained with another tokenizer than {tmp_path / 'other'}'s; pass --tokenizer {copied}")


def test_a_folder_with_a_run_in_it_is_not_overwritten(gpt_train, copied, text, capsys):
    fails(gpt_train, capsys, command(text, copied, 20), "holds a run already; pass --resume to go on with it, or another --out")


def test_two_runs_in_one_folder(gpt_train, copied, text, capsys):
    with FileLock(copied / ".lock"):
        fails(gpt_train, capsys, command(text, copied, 20, "--resume"), f"another run is writing to {copied}; wait for it")
    assert gpt_train.main(command(text, copied, 20, "--resume")) == 0


@pytest.mark.parametrize(("name", "change", "sentence"), [
    ("config.json", lambda data: data.replace(b'"gpt2"', b'"llama"'), "says model_type = 'llama', this model has 'gpt2'"),
    ("config.json", lambda data: data.replace(b'"n_embd"', b'"other"'), "config.json lacks 'n_embd'"),
    ("config.json", lambda data: data.replace(b"gelu_new", b"relu"), "says activation_function = 'relu'"),
    ("config.json", lambda data: data.replace(b"1e-05", b"1e-06"), "says layer_norm_epsilon = 1e-06"),
    ("config.json", lambda data: b"[1, 2", "can't be used: "),
    ("config.json", lambda data: b"[1, 2]", "can't be used: "),
    ("config.json", lambda data: data.replace(b'"n_layer": 1', b'"n_layer": 2'), "lacks transformer.h.1.ln_1.weight"),
    ("config.json", lambda data: data.replace(b'"n_positions": 32', b'"n_positions": 64'),
     "transformer.wpe.weight in model.safetensors has shape (32, 16), which doesn't fit config.json"),
    ("model.safetensors", lambda data: data[:-50], "can't be used: "),
    ("model.safetensors", lambda data: b"", "can't be used: "),
    ("training.pt", lambda data: data[:-5_000], "training.pt is damaged"),
    ("training.pt", lambda data: b"", "training.pt is damaged"),
    ("training.pt", lambda data: b"not a state", "training.pt "),
])
def test_a_foreign_checkpoint_is_refused_by_name(copied, name, change, sentence):
    folder = copied / "step-00000020"
    (folder / "checkpoint.json").unlink()                                    # as in a folder from elsewhere
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(ValueError, match="step-00000020") as refused:
        chapter("ch05").load_checkpoint(folder)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training.pt", "tokenizer.json"])
def test_a_missing_file_is_named(copied, name):
    folder = copied / "step-00000020"
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"is no checkpoint: {name} is missing"):
        chapter("ch05").load_checkpoint(folder)


class Stowaway:
    """Its pickle asks the reader to make a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_run(copied, tmp_path):
    folder = copied / "step-00000020"
    torch.save({"step": Stowaway(tmp_path / "was-here")}, folder / "training.pt")
    (folder / "checkpoint.json").unlink()
    with pytest.raises(ValueError, match=r"training\.pt holds more than numbers, and loading it could run any program"):
        chapter("ch05").load_checkpoint(folder)
    assert not (tmp_path / "was-here").exists()


def test_a_model_without_a_state_can_not_go_on(gpt_train, copied, text, capsys):
    shutil.rmtree(copied / "step-00000020")
    (copied / "model").rename(copied / "step-00000020")
    fails(gpt_train, capsys, command(text, copied, 20, "--resume"), "holds a model but no state of training")


# ---------------------------------------------------------------- a disk that fills up, a loss that is no number

@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "training.pt", "tokenizer.json", "checkpoint.json"])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, file):
    """Whichever file meets it."""
    ch05, ch04 = chapter("ch05"), chapter("ch04")
    tokenizer = ch05.load_tokenizer(ROOT / "models" / "tokenizer")
    torch.manual_seed(0)
    model = ch04.GPTModel(ch04.GPTConfig(2_048, 16, 16, 2, 1))
    ch05.save_checkpoint(tmp_path / "model", model, tokenizer, {"step": 1})
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}

    def no_room(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_files(folder, files):
        if file in files:
            no_room()
        real_write(folder, files)

    real_write = ch05.write_files
    monkeypatch.setattr(ch05, "write_files", write_files)
    if file == "model.safetensors":
        monkeypatch.setattr(ch05, "save_file", no_room)
    if file == "training.pt":
        monkeypatch.setattr(ch05.torch, "save", no_room)
    if file == "tokenizer.json":
        monkeypatch.setattr(type(tokenizer), "save", no_room)
    with pytest.raises(ValueError, match="could not write .*No space left on device.*what was there before is intact"):
        ch05.save_checkpoint(tmp_path / "model", model, tokenizer, {"step": 2})
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


FULL_DISK = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
path = sys.argv[1]
sys.argv[:3] = [path]
runpy.run_path(path, run_name="__main__")
"""


@posix
@pytest.mark.slow
def test_a_run_whose_disk_fills_up_ends_with_a_sentence(tmp_path, text, gpt_train, monkeypatch):
    """A limit on the size of a file stands for the full disk: the state of training is the first that doesn't fit."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(gpt_train.Run, "save", stop_after(gpt_train.Run.save, 1))
        with pytest.raises(Stopped):
            gpt_train.main(command(text, out, 40))
    size = (out / "step-00000010" / "training.pt").stat().st_size
    full = subprocess.run([sys.executable, "-c", FULL_DISK, str(SCRIPT), str(size - 10_000), *command(text, out, 40, "--resume")],
                          env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=120)
    assert full.returncode == 2
    said = full.stderr.splitlines()[-1]
    assert said.startswith("gpt_train.py: could not write ")
    assert "step-00000020' ([Errno 27] File too large); make room, or choose another folder" in said
    assert "Traceback" not in full.stderr
    assert [p.name for p in out.iterdir() if p.name != ".lock"] == ["step-00000010"]
    assert gpt_train.main(command(text, out, 40, "--resume")) == 0           # there is room again
    assert gpt_train.main(command(text, tmp_path / "calm", 40)) == 0
    assert_equal_runs(tmp_path / "calm", out)


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounting a disk needs root, on Linux")
@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine doesn't let us mount a small disk")
    try:
        ch05, ch04 = chapter("ch05"), chapter("ch04")
        model = ch04.GPTModel(ch04.GPTConfig(2_048, 16, 16, 2, 1))           # 0.14 MB of weights
        state = {"room": torch.zeros(100_000)}                               # 0.4 MB
        ch05.save_checkpoint(disk / "model", model, training=state)
        before = {p.name: p.read_bytes() for p in (disk / "model").iterdir()}
        for _ in range(2):
            with pytest.raises(ValueError, match="could not write .*No space left on device"):
                ch05.save_checkpoint(disk / "model", model, training=state)
        assert {p.name: p.read_bytes() for p in (disk / "model").iterdir()} == before
        assert ch05.load_checkpoint(disk / "model")[1].keys() == {"room"}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_loss_that_is_no_number_stops_the_run(gpt_train, copied, text, capsys, monkeypatch, tmp_path):
    out = tmp_path / "wild"
    fails(gpt_train, capsys, command(text, out, 200, "--learning-rate", "1e30", "--warmup", "1"), "lower the learning rate")
    assert checkpoints(out) == []


def test_broken_weights_never_become_a_checkpoint(gpt_train, text, capsys, monkeypatch, tmp_path):
    """The last step before a checkpoint breaks them: no loss of training has seen it yet."""
    out, real = tmp_path / "run", torch.optim.AdamW.step
    done = [0]

    def step(optimizer, *arguments):
        real(optimizer, *arguments)
        done[0] += 1
        if done[0] == 20:
            optimizer.param_groups[0]["params"][0].data.fill_(torch.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    fails(gpt_train, capsys, command(text, out, 40), "the losses at step 20 are {'loss': ")
    assert checkpoints(out) == ["step-00000010"]
    monkeypatch.undo()
    assert gpt_train.main(command(text, out, 40, "--resume")) == 0
