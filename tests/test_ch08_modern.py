"""The bonus of modern architectures: each change against PyTorch or by its property, checkpoints against `transformers`."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.support import ROOT, chapter, program

FOLDER = "ch08/03_bonus_modern-architectures"
modern = program(f"{FOLDER}/modern.py")
SMALL = modern.ModernConfig(61, 32, 24, 4, 2)
ALL = replace(SMALL, norm="rms", positions="rope", feed_forward="swiglu", bias=False, n_kv_heads=2, qk_norm=True)


def wild(model, std=0.3):
    """The model with weights so large that an error shows."""
    torch.manual_seed(1)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=std) if p.dim() == 2 else torch.nn.init.uniform_(p, 0.5, 1.5)
    return model.eval()


def test_without_changes_it_is_chapter_4s_gpt():
    ch04 = chapter("ch04")
    gpt = wild(ch04.GPTModel(ch04.GPTConfig(61, 32, 24, 4, 2)))
    ours, state = modern.ModernModel(SMALL).eval(), gpt.state_dict()
    for name in [name for name in state if ".qkv." in name]:
        for letter, part in zip("qkv", state.pop(name).chunk(3), strict=True):
            state[name.replace("qkv", letter)] = part
    ours.load_state_dict(state)
    ids = torch.randint(0, 61, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), gpt(ids), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(ids[:, :-1], targets=ids[:, 1:]), gpt(ids[:, :-1], targets=ids[:, 1:]))


@pytest.mark.parametrize("config", [SMALL, ALL, replace(ALL, n_kv_heads=1), replace(ALL, head_size=8, qk_norm=False)])
def test_the_future_has_no_influence(config):
    model, ids = wild(modern.ModernModel(config)), torch.randint(0, 61, (1, 20))
    with torch.no_grad():
        before = model(ids)
        ids[0, 12:] = (ids[0, 12:] + 1) % 61
        after = model(ids)
    assert torch.equal(before[:, :12], after[:, :12]) and not torch.allclose(before[:, 12:], after[:, 12:])


def test_rms_norm_is_pytorchs():
    x, norm = torch.randn(3, 5, 24) * 4 + 1, modern.RMSNorm(24)
    torch.nn.init.normal_(norm.weight)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (24,), norm.weight, 1e-5), atol=1e-6, rtol=1e-5)


def test_rotation_keeps_lengths_and_sees_only_distances():
    q, k = torch.randn(2, 2, 3, 1, 16, dtype=torch.float64)
    def at(x, n):
        return modern.rotate(x, torch.tensor([n]))
    def product(m, n):
        return (at(q, m) * at(k, n)).sum(dim=-1)
    torch.testing.assert_close(product(9, 4), product(29, 24), atol=1e-4, rtol=0)
    assert not torch.allclose(product(9, 4), product(9, 5), atol=1e-3)
    torch.testing.assert_close(at(q, 17).norm(dim=-1), q.norm(dim=-1), atol=1e-6, rtol=0)
    assert torch.equal(at(q, 0), q)


def test_one_kv_head_each_is_ordinary_attention():
    torch.manual_seed(0)
    shared, own = modern.ModernAttention(replace(SMALL, n_kv_heads=2)), modern.ModernAttention(SMALL)
    state = shared.state_dict()
    for name in ("k", "v"):
        for kind in ("weight", "bias"):
            part = state[f"{name}.{kind}"]
            state[f"{name}.{kind}"] = part.view(2, 6, *part.shape[1:]).repeat_interleave(2, dim=0).flatten(0, 1)
    own.load_state_dict(state)
    x = torch.randn(2, 9, 24)
    torch.testing.assert_close(shared(x), own(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"norm": "batch"}, "norm is 'batch'; choose 'layer' or 'rms'"), ({"positions": "none"}, "positions is 'none'"),
    ({"feed_forward": "relu"}, "feed_forward is 'relu'"), ({"n_heads": 5}, "make the first a multiple of the second"),
    ({"n_kv_heads": 3}, "n_heads is 4 and n_kv_heads 3"), ({"positions": "rope", "head_size": 5}, "make it an even number")])
def test_shapes_that_cannot_be(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(SMALL, **change)


def test_a_text_beyond_the_context():
    with pytest.raises(ValueError, match="the input has 33 tokens, the model's context is 32; shorten it"):
        modern.ModernModel(ALL)(torch.zeros(1, 33, dtype=torch.long))


# ------------------------------------------------------------------------------------------------------------- checkpoints


def checkpoint(family, folder, **settings):
    transformers = pytest.importorskip("transformers")
    shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 64} | settings
    name = {"llama": "Llama", "qwen3": "Qwen3"}[family]
    config = getattr(transformers, f"{name}Config")(**shape)
    theirs = wild(getattr(transformers, f"{name}ForCausalLM")(config), std=0.15)
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True}, {"head_dim": 16, "rope_theta": 5e5},
                                      {"num_key_value_heads": 4}])
def test_checkpoints_of_both_families_have_the_same_logits(family, settings, tmp_path):
    theirs, ids = checkpoint(family, tmp_path, **settings), torch.randint(0, 97, (2, 64))
    ours, config = modern.load_modern(tmp_path)
    assert config.qk_norm == (family == "qwen3")
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_read_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"there is no config.json in"):
        modern.load_modern(tmp_path)
    checkpoint("llama", tmp_path)
    path, settings = tmp_path / "config.json", json.loads((tmp_path / "config.json").read_text())
    for change, sentence in (({"model_type": "gpt2"}, "model_type is 'gpt2'; this reads llama and qwen3"),
                             ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_type is 'llama3'"),
                             ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"), ({"attention_bias": True}, "attention_bias is True"),
                             ({"num_hidden_layers": 2}, "9 tensors don't fit config.json, 'blocks.2.attention.k.weight' first")):
        path.write_text(json.dumps(settings | change))
        with pytest.raises(ValueError, match=sentence):
            modern.load_modern(tmp_path)
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "hidden_size"}))
    with pytest.raises(ValueError, match="config.json has no 'hidden_size'"):
        modern.load_modern(tmp_path)
    path.write_text(json.dumps(settings))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="can't be read"):
        modern.load_modern(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"there are no .safetensors in"):
        modern.load_modern(tmp_path)


# ------------------------------------------------------------------------------------------------------------- the study


def test_the_study_changes_one_thing_at_a_time():
    study = program(f"{FOLDER}/study.py")
    configs = list(study.variants().values())
    for before, after in zip(configs, configs[1:], strict=False):
        assert sum(a != b for a, b in zip(vars(before).values(), vars(after).values(), strict=True)) == 1
    recorded = json.loads((ROOT / FOLDER / "results.json").read_text(encoding="utf-8"))
    assert list(recorded["runs"]) == list(study.variants()) and recorded["tokens"] == study.STEPS * study.BATCH * study.WINDOW
    for name, config in study.variants().items():
        for row in recorded["runs"][name].values():
            assert row["parameters"] == sum(p.numel() for p in study.ModernModel(config).parameters())


def test_a_run_repeats():
    study = program(f"{FOLDER}/study.py")
    config = replace(study.BASE, n_channels=24, n_layers=1)
    first, again = (study.run(config, 1, 3)[0] for _ in range(2))
    assert first["loss"] == again["loss"] != study.run(config, 2, 3)[0]["loss"]
