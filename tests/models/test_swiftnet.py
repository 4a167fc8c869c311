"""Swift-Net: the published code's golden outputs; that the causal model hears no future; its stream."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_rtfsnet import golden_run, golden_states
from test_separator import clip, done, known  # noqa: F401  (fixtures)

from lipsep.errors import ModelError
from lipsep.layers.memory import Memory
from lipsep.media.reading import load_audio
from lipsep.models import create_model
from lipsep.models.released import released_model
from lipsep.models.swiftnet import SwiftNet
from lipsep.separation.streaming import Stream, separate_stream
from lipsep.separator import Separator

SMALL = {
    "n_rounds": 2, "channels": 16, "hidden_channels": 16, "video_channels": 32, "video_hidden_channels": 8,
    "lip_size": 32, "lip_recipe": "mesh_32",
}  # fmt: skip


def small(**settings) -> SwiftNet:
    """A small causal model away from its initial state."""
    torch.manual_seed(0)
    model = create_model("swiftnet_6", **{**SMALL, **settings}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def recording(n_samples: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n_samples)
    lips = torch.randn(batch, -(-n_samples // 640), 32, 32, generator=generator)
    return torch.randn(batch, n_samples, generator=generator), lips


@pytest.mark.parametrize(("name", "reference"), [("swiftnet_6", "SwiftNet-6"), ("swiftnet_12", "SwiftNet-12")])
def test_with_the_authors_weights_output_is_that_of_the_published_code(shared, name, reference):
    folder = shared / "reference" / "models"
    model = released_model(name, golden_states(folder / f"{reference}.json")).eval()
    features_db, estimate_db = golden_run(model, folder / f"{reference}.npz")
    assert features_db > 100
    assert estimate_db > 100  # measured: 118 with 6 rounds; 80 is asked for
    with pytest.raises(ModelError, match="causal=False"):
        Stream(model)


@pytest.mark.parametrize("encoder", ["resnet18_3d", "autoencoder"])
def test_the_future_changes_nothing_in_the_past(encoder):
    """From a moment on, all sound and all pictures are replaced: before it, nothing moves but the last window."""
    model, n_samples = small(video_encoder=encoder), 9_600
    mixture, lips = recording(n_samples)
    other_mixture, other_lips = recording(n_samples + 640)
    with torch.inference_mode():
        before = model(mixture, lips)[0, 0]
        for now in (1_280, 3_111, 6_400):
            first_picture = -(-now // 640)
            sound = torch.cat([mixture[:, :now], 30 * other_mixture[:, now:n_samples]], 1)
            seen = torch.cat([lips[:, :first_picture], 30 * other_lips[:, first_picture:-1]], 1)
            after = model(sound, seen)[0, 0]
            same = now - model.config.n_fft
            torch.testing.assert_close(after[:same], before[:same], rtol=1e-5, atol=1e-6 * float(before.abs().max()))
            assert (after[now:] - before[now:]).abs().max() > 0.01 * before.abs().max()


def test_the_bound_on_what_is_heard_is_tight():
    model = small()
    mixture, lips = recording(6_400)
    now = 3_200
    changed = torch.cat([mixture[:, :now], -mixture[:, now:]], 1)
    with torch.inference_mode():
        difference = (model(changed, lips) - model(mixture, lips))[0, 0].abs()
    assert difference[now - 128 : now].max() > 1e-3 * difference.max()


def test_lips_matter_and_later_lips_do_not():
    model = small()
    mixture, lips = recording(6_400)
    changed = torch.cat([lips[:, :5], -lips[:, 5:]], 1)  # from 3,200 samples on
    with torch.inference_mode():
        difference = (model(mixture, changed) - model(mixture, lips))[0, 0].abs()
    assert difference[3_200 - 128 :].max() > 0
    assert difference[: 3_200 - 256].max() < 1e-6


@pytest.mark.parametrize("n_samples", [100, 640, 5_120, 8_003, 8_960])
@pytest.mark.parametrize("piece", [640, 1_000])
def test_a_stream_gives_what_the_whole_recording_gives(n_samples, piece):
    model = small(attention_span=20)
    mixture, lips = recording(n_samples, batch=2)
    with torch.inference_mode():
        whole = model(mixture, lips)[:, 0]
    stream, given, seen = Stream(model, 2), [], 0
    for start in range(0, n_samples, piece):
        sound = mixture[:, start : start + piece]
        stop = -(-(start + sound.shape[1]) // 640)
        given.append(stream.push(sound, lips[:, seen:stop]))
        seen = stop
        late_by = start + sound.shape[1] - sum(g.shape[1] for g in given)
        assert late_by <= stream.latency_ms * 16
    given.append(stream.finish())
    torch.testing.assert_close(torch.cat(given, 1), whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def test_a_stream_does_not_grow():
    stream = Stream(small(attention_span=20))
    sizes = []
    for _ in range(4):
        mixture, lips = recording(640 * 15)
        for i in range(15):
            stream.push(mixture[:, i * 640 : (i + 1) * 640], lips[:, i : i + 1])
        tensors = [v for v in vars(stream.state).values() if isinstance(v, torch.Tensor)]
        memories = [v for v in vars(stream.state).values() if isinstance(v, Memory)]
        sizes.append(sum(m.n_bytes for m in memories) + sum(t.numel() * 4 for t in tensors))
    assert sizes[-1] == sizes[-3]


def test_people_are_separated_side_by_side_and_fade_when_they_leave():
    class Drawn:
        def __init__(self, pictures):
            self.pictures, self.n_frames = pictures, len(pictures)

        def read(self, start, stop):
            return self.pictures[start:stop]

    model = small()
    model.keeps_level = True
    mixture, lips = recording(8_003, batch=2)
    sound, present = mixture[0].numpy(), [np.ones(13, bool), np.arange(13) < 5]
    streams = [Drawn(p) for p in lips.numpy()]
    blocks = list(separate_stream(model, lambda a, b: sound[a:b], 8_003, streams, present))
    assert [start for start, _ in blocks] == np.cumsum([0, *(b.shape[1] for _, b in blocks)])[:-1].tolist()
    voices = np.concatenate([b for _, b in blocks], axis=1)
    with torch.inference_mode():
        whole = model(mixture[:1].expand(2, -1), lips)[:, 0].numpy()
    np.testing.assert_allclose(voices[0], whole[0], atol=1e-4 * np.abs(whole).max())
    assert not voices[1, 8 * 640 :].any()
    assert np.abs(voices[1, : 4 * 640]).max() > 0


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(ModelError, match="swiftnet_6"):
        Stream(create_model("dolphin_test"))
    with pytest.raises(ModelError, match="attention_span"):
        Stream(small(attention_span=None))
    with pytest.raises(ModelError, match="resnet18_3d and autoencoder"):
        Stream(small(video_encoder="dp_lipcoder"))
    with pytest.raises(ModelError, match="hop must divide"):
        dataclasses.replace(small().config, hop=100)


def test_streaming_through_the_main_path_gives_what_the_whole_recording_gives(clip, known):  # noqa: F811
    model = small(video_encoder="autoencoder")
    model.keeps_level = True
    separator = Separator(model, "cpu", window_s=10.0, overlap_s=0.0)
    whole, streamed = separator(clip.path), separator(clip.path, streaming=True)
    assert streamed.report["settings"]["streaming"] and not whole.report["settings"]["streaming"]
    everyone, quiet = np.abs(whole.voices).max(), np.abs(whole.voices[1, :16_000])
    np.testing.assert_allclose(streamed.voices, whole.voices, atol=1e-3 * everyone)
    assert not quiet.any() and everyone > 0  # the second person comes in at 1.6 s
    mixture = load_audio(clip.path)
    np.testing.assert_allclose(streamed.voices.sum(0) + streamed.residual, mixture, atol=1e-6 * everyone + 1e-6)
    with pytest.raises(ModelError, match="swiftnet_6"):
        Separator(create_model("dolphin_test"), "cpu")(clip.path, streaming=True)
