"""AV-HuBERT as a teacher: a checkpoint in fairseq's layout loads without fairseq, and nothing in it is executed."""

from __future__ import annotations

import builtins
import contextlib
import os
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from lipsep.encoders.av_hubert import WRAPPER, AVHubert, AVHubertConfig, avhubert_key, load_av_hubert
from lipsep.errors import WeightsError
from lipsep.lips.recipes import lip_recipe
from lipsep.training.pretraining.teachers import create_teacher, taught_by
from lipsep.training.recipe import TeacherPart

SMALL = AVHubertConfig(channels=32, layers=2, heads=4, hidden=48, position_kernel=16, position_groups=4)


@pytest.fixture
def fairseq(monkeypatch):
    """A class of the name that published checkpoints hold; the reader must not find it."""
    module = types.ModuleType("fairseq.data.dictionary")
    Dictionary = type("Dictionary", (), {"__module__": module.__name__})
    module.Dictionary = Dictionary
    for name in ("fairseq", "fairseq.data", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    dictionary = Dictionary()
    dictionary.symbols = ["a", "b"]
    return dictionary


def published(model: AVHubert, fine_tuned: bool = True, **more) -> dict:
    """What fairseq saves of a model that reads lips; tensors of the sound branch and the decoder are beside ours."""
    settings = {"encoder_attention_heads": model.config.heads, "layer_norm_first": model.config.norm_first}
    prefix = WRAPPER if fine_tuned else ""
    state = OrderedDict((prefix + avhubert_key(name), value) for name, value in model.state_dict().items())
    state[prefix + "feature_extractor_audio.proj.weight"] = torch.zeros(32, 104)
    state["decoder.embed_tokens.weight"] = torch.zeros(3, 32)
    tuned = {"_name": "av_hubert_seq2seq", "w2v_args": {"model": settings}}
    return {"cfg": {"model": tuned if fine_tuned else settings}, "model": state, **more}


@pytest.fixture(scope="module", params=[True, False], ids=["norm_first", "norm_last"])
def model(request) -> AVHubert:
    torch.manual_seed(0)
    config = AVHubertConfig(**{**vars(SMALL), "norm_first": request.param})
    return AVHubert(config).eval()


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("fine_tuned", [True, False])
def test_a_published_checkpoint_loads_without_fairseq(model, fairseq, tmp_path, monkeypatch, fine_tuned, layout):
    path = tmp_path / "large_vox_433h.pt"
    content = published(model, fine_tuned, task_state={"target_dictionary": fairseq})
    torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        monkeypatch.delitem(sys.modules, name)
    loaded = load_av_hubert(path)
    assert loaded.config == model.config
    lips = torch.randn(1, 5, 88, 88)
    with torch.inference_mode():
        assert torch.equal(loaded(lips), model(lips))
    assert loaded(lips).shape == (1, 5, 32)


class Harmful:
    """A pickle that wants a function called."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, layout):
    model, victim = AVHubert(SMALL), tmp_path / "executed"
    harmful = {
        "eval": Harmful(builtins.eval, f"open({str(victim)!r}, 'w')"),
        "subprocess": Harmful(subprocess.getoutput, f"touch {victim}"),
        "os": Harmful(os.system, f"touch {victim}"),
    }
    for name, pickled in harmful.items():
        path = tmp_path / f"{name}.pt"
        torch.save(published(model, extra_state=pickled), path, _use_new_zipfile_serialization=layout == "zip")
        with contextlib.suppress(WeightsError):  # refused, or read without what it wanted called
            load_av_hubert(path)
        assert not victim.exists()
        torch.load(path, weights_only=False)  # whereas plain unpickling obeys
        victim.unlink()


def test_the_large_model_has_its_published_sizes_and_keys():
    with torch.device("meta"):
        large = AVHubert(AVHubertConfig())
    keys = {avhubert_key(name): tuple(value.shape) for name, value in large.state_dict().items()}
    assert keys["feature_extractor_video.resnet.frontend3D.0.weight"] == (64, 1, 5, 7, 7)
    assert keys["feature_extractor_video.resnet.trunk.layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert keys["feature_extractor_video.resnet.trunk.layer4.1.relu2.weight"] == (512,)
    assert keys["feature_extractor_video.proj.weight"] == (1024, 512)
    assert keys["layer_norm.weight"] == (2048,) and keys["post_extract_proj.weight"] == (1024, 2048)
    assert keys["encoder.pos_conv.0.weight_g"] == (1, 1, 128)
    assert keys["encoder.pos_conv.0.weight_v"] == (1024, 64, 128)
    assert keys["encoder.layers.23.self_attn.out_proj.bias"] == (1024,)
    assert keys["encoder.layers.23.fc1.weight"] == (4096, 1024) and keys["encoder.layer_norm.bias"] == (1024,)


def test_the_weight_norm_and_the_shift_of_the_position_convolution_are_fairseqs():
    """w = g v / |v|, with |v| over output and input channels; padded by half the kernel, the last frame dropped."""
    model = AVHubert(SMALL).eval()
    state = model.state_dict()
    g, v = (state[f"place.conv.parametrizations.weight.original{k}"] for k in (0, 1))
    weight = g * v / v.square().sum((0, 1), keepdim=True).sqrt()
    x = torch.randn(1, 9, 32)
    y = torch.nn.functional.conv1d(x.mT, weight, state["place.conv.bias"], padding=8, groups=4)[..., :-1]
    torch.testing.assert_close(model.place(x), torch.nn.functional.gelu(y).mT)


def test_what_is_no_av_hubert_is_refused_with_the_reason(tmp_path):
    with pytest.raises(WeightsError, match="no file"):
        load_av_hubert(tmp_path / "nothing.pt")
    path = tmp_path / "other.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="damaged"):
        load_av_hubert(path)
    torch.save({"model": {"linear.weight": torch.zeros(2, 2)}}, path)
    with pytest.raises(WeightsError, match="another model's"):
        load_av_hubert(path)
    content = published(AVHubert(SMALL))
    del content["model"][WRAPPER + "encoder.layers.1.fc2.bias"]
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"lacks the key 'encoder\.layers\.1\.fc2\.bias'"):
        load_av_hubert(path)


def test_it_teaches_and_its_weights_are_recorded(tmp_path):
    path: Path = tmp_path / "weights.pt"
    torch.save(published(AVHubert(SMALL)), path)
    teacher = create_teacher(TeacherPart(name="av_hubert", weights=path), lip_recipe("mesh_88"))
    assert teacher(torch.randn(2, 4, 88, 88), torch.zeros(2, 4 * 640)).shape == (2, 4, teacher.dim)
    assert teacher.dim == 32 and len(teacher.identity) == 64 and "without" not in taught_by(teacher)
