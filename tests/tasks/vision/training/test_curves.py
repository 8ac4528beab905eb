from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image

from tasks.vision.training.curves import curves_figure
from tasks.vision.training.events import EpochEnd

END = EpochEnd(1, 1.0, 0.5, 0.1, 0.9, 0.1, 1.0, 1.0, 0.25)


def test_the_share_of_time_waiting_for_data_is_drawn_from_the_epoch_that_measured_it() -> None:
    """The first epoch is from a checkpoint of an earlier release."""
    history = [dataclasses.replace(END, data_wait_share=None), *(dataclasses.replace(END, epoch=n) for n in (2, 3))]
    figure = curves_figure(history, history[-1], "digits")
    wait = figure.axes[-1]
    drawn = np.asarray(wait.get_lines()[0].get_ydata(), float)
    assert np.array_equal(drawn, [np.nan, 0.25, 0.25], equal_nan=True)
    assert wait.get_title() == "Share of time waiting for data"
    assert wait.get_ylim() == (0, 1)
    assert len({axes.get_xlim() for axes in figure.axes}) == 1


def test_a_history_without_it_is_drawn_too() -> None:
    file = io.BytesIO()
    history = [dataclasses.replace(END, data_wait_share=None)]
    curves_figure(history, history[0], "digits").savefig(file)
    with Image.open(file) as picture:
        assert picture.width > 1000
