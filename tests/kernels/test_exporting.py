"""What `exporting()` does, and to whom."""

from __future__ import annotations

from threading import Thread

import torch

from lipsep.kernels.exporting import exporting, is_exporting


def test_shapes_change_as_ever() -> None:
    x = torch.arange(120.0).view(2, 3, 4, 5)
    expected = [x.flatten(), x.flatten(1, 2), x.flatten(1, -1), x.unflatten(2, (2, 2)), x.unflatten(-1, (-1, 5))]
    expected += [x.movedim(-1, 1), x.movedim(1, -1), x.mT]
    with exporting():
        found = [x.flatten(), x.flatten(1, 2), x.flatten(1, -1), x.unflatten(2, (2, 2)), x.unflatten(-1, (-1, 5))]
        found += [x.movedim(-1, 1), x.movedim(1, -1), x.mT]
    for ours, wanted in zip(found, expected, strict=True):
        assert torch.equal(ours, wanted)


def test_other_threads_and_the_time_after_it_know_nothing_of_it() -> None:
    flatten, seen = torch.Tensor.flatten, []
    with exporting():
        thread = Thread(target=lambda: seen.append(is_exporting()))
        thread.start()
        thread.join()
        seen.append(is_exporting())
        assert torch.Tensor.flatten is flatten
    assert [*seen, is_exporting()] == [False, True, False]
