"""Corpora in their published layouts become shards: one tiny clip, tracked once, stands for every file."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
import soundfile
from kept import keep
from scenes import build_clip, demo_people

from lipsep.data.clips.clips import pack
from lipsep.data.corpora import prepare, shards
from lipsep.data.corpora.filming import read_pictures
from lipsep.data.corpora.layouts import find_sources
from lipsep.data.corpora.prepare import filmed_corpus, kept_at
from lipsep.data.corpora.shards import load_shards, prepare_shards
from lipsep.data.synthetic.babble import synthetic_corpus
from lipsep.errors import MediaError, OutputError
from lipsep.media.reading import read_frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """One person for 1 s."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    build_clip(demo_people()[:1], path, duration_s=1.0, size=(320, 240))
    return path


def place(clip, root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".wav"):
            soundfile.write(root / path, np.full(16_000, 0.25, np.float32), 16_000)
        else:
            shutil.copy(clip, root / path)


LAYOUTS = {
    "folder": (
        ["train/ann/1.mp4", "val/bob/2.mov", "train/3.mp4", "hello.mp4", "s26_bwaq8s.mp4"],
        {
            "train_ann_1": ("ann", "train"), "val_bob_2": ("bob", "val"), "train_3": ("raw", "train"),
            "hello": ("raw", "all"), "s26_bwaq8s": ("s26", "all"),
        },
    ),
    "grid": (
        ["s1/video/mpg_6000/bbaf2n.mp4", "s1/bbaf2n.mp4", "s22/bbaf2n.mp4", "readme/x.mp4"],
        {"s1_bbaf2n": ("s1", "all"), "s22_bbaf2n": ("s22", "all")},
    ),
    "lombard_grid": (
        ["lombardgrid_front/lombardgrid/front/s2_l_bbim3a.mov", "lombardgrid_audio/lombardgrid/audio/s2_l_bbim3a.wav",
         "lombardgrid_front/lombardgrid/front/s28_l_gik8a_WRONG_#sil.mov", "lombardgrid/side/s2_l_bbim3a.mov"],
        {
            "lombard_s2_l_bbim3a": ("lombard_s2", "all"),
            "lombard_s28_l_gik8a_WRONG_#sil": ("lombard_s28", "all"),
        },
    ),
    "crema_d": (
        ["VideoFlash/1001_DFA_ANG_XX.flv", "VideoFlash/1040_ITH_SAD_X.flv", "docs/x.mp4"],
        {"crema_1001_DFA_ANG_XX": ("crema_1001", "all"), "crema_1040_ITH_SAD_X": ("crema_1040", "all")},
    ),
    "lrs2": (
        ["mvlrs_v1/main/653/00001.mp4", "mvlrs_v1/main/654/00002.mp4", "mvlrs_v1/pretrain/653/00009.mp4"],
        {
            "653_00001": ("653", "train"), "654_00002": ("654", "test"), "pretrain_653_00009": ("653", "pretrain"),
            "655_00003": ("655", "val"),
        },
    ),
    "lrs3": (
        ["trainval/0a_b/50001.mp4", "test/c-d/00001.mp4", "pretrain/e/00002.mp4"],
        {"0a_b_50001": ("0a_b", "train"), "c-d_00001": ("c-d", "test"), "pretrain_e_00002": ("e", "pretrain")},
    ),
    "vox2": (
        ["dev/mp4/id00012/21Ux/00001.mp4", "test/mp4/id00017/01df/00002.mp4", "dev/aac/id00012/21Ux/00001.m4a"],
        {"id00012_21Ux_00001": ("id00012", "train"), "id00017_01df_00002": ("id00017", "test")},
    ),
    "tcd_timit": (
        ["volunteers/01M/Clips/straightcam/sa1.mp4", "volunteers/01M/Clips/30degcam/sa1.mp4",
         "lipspeakers/Lipspkr1/Clips/straightcam/sx2.mp4", "volunteers/01M/Clips/straightcam/sa1.wav"],
        {"01M_sa1": ("01M", "all"), "Lipspkr1_sx2": ("Lipspkr1", "all")},
    ),
    "ntcd_timit": (
        ["volunteers/01M/straightcam/sa1.mp4", "volunteers/02F/straightcam/sa1.mp4",
         "Clean/volunteers/01M/straightcam/sa1.wav", "Babble/5/volunteers/02F/straightcam/sa1.wav"],
        {"01M_sa1": ("01M", "all"), "02F_sa1": ("02F", "all")},
    ),
}  # fmt: skip
MISSING = {
    "lombard_grid": {"lombard_s28_l_gik8a_WRONG_#sil": "audio/s28_l_gik8a_WRONG_#sil.wav is needed"},
    "lrs2": {"655_00003": "listed in val.txt"},
    "ntcd_timit": {"02F_sa1": "no clean sound"},
}


@pytest.mark.parametrize("corpus", LAYOUTS)
def test_each_published_layout_becomes_shards(corpus, clip, film_once, tmp_path):
    paths, expected = LAYOUTS[corpus]
    root = tmp_path / "raw"
    place(clip, root, *paths)
    if corpus == "lrs2":
        for split, line in {
            "train": "653/00001",
            "test": "654/00002 NF",
            "val": "655/00003",
            "pretrain": "653/00009",
        }.items():
            (root / f"{split}.txt").write_text(f"{line}\n")
    assert {source.name: (source.talker, source.split) for source in find_sources(corpus, root)} == expected
    summary = prepare_shards(corpus, root, tmp_path / "out")
    missing = MISSING.get(corpus, {})
    assert {entry["clip"] for entry in summary["skipped"]} == set(missing)
    assert all(missing[entry["clip"]] in entry["reason"] for entry in summary["skipped"])
    for split in {split for _, split in expected.values()}:
        clips = load_shards(tmp_path / "out", split)
        wanted = {name: talker for name, (talker, of) in expected.items() if of == split and name not in missing}
        assert dict(zip(clips.names, clips.talkers, strict=True)) == wanted
        assert (clips.n_frames == 25).all() and (np.abs(clips.mouths - 0.5) < 0.5).all()
    if corpus in ("lombard_grid", "tcd_timit", "ntcd_timit"):
        assert load_shards(tmp_path / "out", "all")[0].voice[100:-100] == pytest.approx(0.25, abs=1e-3)


def test_films_kept_as_pictures_have_their_sound_beside_them(clip, tmp_path):
    """As Zenodo's record of GRID describes itself; beside it a clip as it is really there, and one without sound."""
    root = tmp_path / "grid"
    frames = list(read_frames(clip))
    for talker in ("s1", "s2"):
        (root / talker / talker / "bbaf2n").mkdir(parents=True)
        for frame in frames:
            name = f"bbaf2n_{frame.index + 8}.jpg"  # 8, 9, 10: in order of numbers, not of letters
            path = root / talker / talker / "bbaf2n" / name
            cv2.imwrite(str(path), frame.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    place(clip, root, "audio_25k/audio_25k/s1/bbaf2n.wav", "s1/s1/lwae7a.mp4", "s1/s1/._lwae7a.mp4")
    summary = prepare_shards("grid", root, tmp_path / "out", with_pictures=True)
    assert [entry["clip"] for entry in summary["skipped"]] == ["s2_bbaf2n"]
    assert "audio_25k/s2/bbaf2n.wav is needed" in summary["skipped"][0]["reason"]
    clips = load_shards(tmp_path / "out", "all")
    assert (clips.names, clips.talkers) == (["s1_bbaf2n", "s1_lwae7a"], ["s1", "s1"])
    pictures, film = clips[0], clips[1]
    assert pictures.voice[100:-100] == pytest.approx(0.25, abs=1e-3)
    assert len(pictures.mouth) == len(film.mouth) == 25 and pictures.pictures[np.arange(25)].shape == (25, 96, 96)
    assert np.abs(pictures.mouth - film.mouth).mean() < 0.02, "the same lips, in the same order"

    (root / "s1" / "s1" / "bbaf2n" / "bbaf2n_12.jpg").unlink()
    with pytest.raises(MediaError, match=r"between 'bbaf2n_11.jpg' and 'bbaf2n_13.jpg' are not one by one"):
        list(read_pictures(root / "s1" / "s1" / "bbaf2n"))


def test_a_run_that_was_cut_off_goes_on_and_tells_what_it_skipped(clip, film_once, tmp_path, monkeypatch):
    root, out = tmp_path / "raw", tmp_path / "out"
    place(clip, root, *(f"t{k}/1.mp4" for k in range(5)))
    (root / "t1" / "1.mp4").write_bytes(b"no video")
    filmed = []
    film_talker = shards.film_talker

    def dies_at_the_fourth(video, *rest):
        if len(filmed) == 3:
            raise KeyboardInterrupt
        filmed.append(video.parent.name)
        return film_talker(video, *rest)

    monkeypatch.setattr(shards, "film_talker", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        prepare_shards("folder", root, out, clips_per_shard=2)
    with pytest.raises(MediaError, match="no prepared corpus"):
        load_shards(out, "all")
    assert filmed == ["t0", "t1", "t2"]
    monkeypatch.setattr(shards, "film_talker", lambda *a: filmed.append(a[0].parent.name) or film_talker(*a))
    summary = prepare_shards("folder", root, out, clips_per_shard=2)
    assert filmed[3:] == ["t2", "t3", "t4"]  # the first shard was finished
    assert summary["splits"] == {"all": {"clips": 4, "talkers": 4, "hours": 0.0011}}
    (skipped,) = summary["skipped"]
    assert skipped["clip"] == "t1_1" and "1.mp4" in skipped["reason"]
    assert json.loads((out / "corpus.json").read_text())["skipped"] == [skipped]
    assert load_shards(out, "all").names == ["t0_1", "t2_1", "t3_1", "t4_1"]
    assert filmed_corpus(out, tmp_path / "unused").names == ["t0_1", "t2_1", "t3_1", "t4_1"]
    assert prepare_shards("folder", root, out, clips_per_shard=2) == summary and len(filmed) == 6

    place(clip, root, "t5/1.mp4")
    with pytest.raises(OutputError, match=r"holds 5 clips of folder.* now there are 6"):
        prepare_shards("folder", root, out, clips_per_shard=2)


def test_a_folder_of_another_layout_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"does not look like vox2: no dev/mp4"):
        find_sources("vox2", tmp_path)
    with pytest.raises(MediaError, match="unknown corpus 'lrs4': choose one of folder, grid"):
        find_sources("lrs4", tmp_path)
    with pytest.raises(MediaError, match=r"unknown corpus 'lrs4': choose one of folder, grid, .*, esc"):
        prepare_shards("lrs4", tmp_path, tmp_path / "out")


def test_a_recipe_prepares_a_folder_as_the_command_does(clip, film_once, tmp_path, monkeypatch):
    """The same names and the same talkers: clips of a flat folder are one person's."""
    monkeypatch.setattr(prepare.os, "cpu_count", lambda: 1)
    place(clip, tmp_path / "ann", "1.mp4", "2.mp4")
    prepare_shards("folder", tmp_path / "ann", tmp_path / "out")
    by_command, by_recipe = load_shards(tmp_path / "out", "all"), filmed_corpus(tmp_path / "ann", tmp_path / "kept")
    assert by_recipe.names == by_command.names == ["1", "2"]
    assert by_recipe.talkers == by_command.talkers == ["ann", "ann"]
    assert (by_recipe.mouths == by_command.mouths).all()


def test_mouths_made_from_sound_are_kept_apart_by_whose_they_resemble(tmp_path):
    of_ann, of_bob = (kept_at(tmp_path, tmp_path / "speech", [name]) for name in ("ann_1", "bob_1"))
    assert of_ann != of_bob and of_ann == kept_at(tmp_path, tmp_path / "speech", ["ann_1"])


def test_folders_of_one_name_are_different_corpora(tmp_path):
    """The second must not get what was prepared from the first."""
    first, second = tmp_path / "a" / "voices", tmp_path / "b" / "voices"
    second.mkdir(parents=True)
    keep(pack([synthetic_corpus(2, 1, 1.0, 0)[0]]), tmp_path / "prepared", first)
    assert len(filmed_corpus(first, tmp_path / "prepared")) == 1  # the folder itself may be gone by now
    with pytest.raises(MediaError, match="no video clips there"):
        filmed_corpus(second, tmp_path / "prepared")
