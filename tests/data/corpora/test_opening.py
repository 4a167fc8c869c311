"""A recipe's filmed corpora: one, or several that become one."""

from __future__ import annotations

import pytest
from kept import keep

from lipsep.data.corpora.opening import filmed_split
from lipsep.data.settings import DataPart
from lipsep.data.synthetic.babble import synthetic_corpus
from lipsep.errors import ModelError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two corpora of four clips each, of talkers of their own."""
    folder = tmp_path_factory.mktemp("prepared")
    clips = synthetic_corpus(4, 2, 0.4, seed=0)
    for number, name in enumerate(("one", "two")):
        keep(clips.select(range(4 * number, 4 * number + 4)), folder, folder / name)
    return folder


def test_several_corpora_become_one_and_each_keeps_its_validation(prepared):
    clips = synthetic_corpus(4, 2, 0.4, seed=0)
    held_out = (clips.names[0], clips.names[4])
    folders = [prepared / "one", prepared / "two"]
    part = DataPart(filmed=folders, prepared=prepared, filmed_validation_prefixes=held_out)
    training, validation = filmed_split(part, lambda *_: None)
    assert validation.names == list(held_out)
    assert training.names == [name for name in clips.names if name not in held_out]
    for index, name in enumerate(training.names):
        original = clips[clips.names.index(name)]
        assert (training[index].voice == original.voice).all() and training[index].talker == original.talker


def test_one_corpus_needs_no_list_and_null_takes_it_away(prepared):
    assert DataPart(filmed=str(prepared / "one")).filmed == (prepared / "one",)
    assert DataPart(filmed=None, finished=prepared).filmed == ()
    with pytest.raises(ValueError, match="needs either 'filmed'"):
        DataPart(filmed=[])


def test_too_few_clips_in_all_are_told(prepared):
    part = DataPart(filmed=[prepared / "one"], prepared=prepared, filmed_validation_prefixes=("nobody",))
    with pytest.raises(ModelError, match="4 clips to train on and 0 to validate"):
        filmed_split(part, lambda *_: None)
