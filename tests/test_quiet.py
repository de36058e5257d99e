"""Silence for all threads, and none of it left when they are done."""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings

import pytest
from PIL import Image

from common.data.reading import decode
from common.errors import InputError
from common.inference.dicom import discreet
from common.quiet import Shared, quietly


def _in_turn(hold, check):
    """Enter in two threads, leave in the order in which they came, which is not that of a stack; check after each."""
    first_in, first_out, second_in = threading.Event(), threading.Event(), threading.Event()

    def second():
        first_in.wait()
        with hold():
            second_in.set()
            first_out.wait()
            check("one left")

    thread = threading.Thread(target=second)
    thread.start()
    with hold():
        first_in.set()
        second_in.wait()
        check("both")
    first_out.set()
    thread.join()
    check("none")


def test_the_first_enters_for_all_and_the_last_leaves():
    told = []

    class Told:
        def __enter__(self):
            told.append("in")

        def __exit__(self, *_):
            told.append("out")

    seen = []
    _in_turn(Shared(Told), lambda when: seen.append((when, list(told))))
    assert seen == [("both", ["in"]), ("one left", ["in"]), ("none", ["in", "out"])]


def test_warnings_are_silent_until_the_last_has_left():
    shown = {}

    def check(when):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(warnings, "showwarning", lambda *_, **__: shown.update({when: True}))
            warnings.warn(when, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _in_turn(quietly, check)
    assert shown == {"none": True}


def test_no_thread_hears_pydicom_while_another_has_done_with_it():
    """What it says quotes the file's values, a patient's among them."""
    levels = {}
    _in_turn(lambda: discreet("x.dcm"), lambda when: levels.update({when: logging.getLogger("pydicom").level}))
    assert levels["both"] == levels["one left"] == logging.CRITICAL + 1 and levels["none"] <= logging.CRITICAL


def test_it_ends_with_an_error_too():
    with pytest.raises(InputError), discreet("x.dcm"):
        raise ValueError("a value of a patient")
    assert logging.getLogger("pydicom").level <= logging.CRITICAL


def test_many_threads_that_decode_leave_the_filters_as_they_were():
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [decode(stream.getvalue(), "x.png") for _ in range(200)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_not_within():
    with quietly():
        child = os.fork()
        if not child:
            with quietly():  # would wait for ever if it were held
                pass
            os._exit(quietly._inside)
        assert os.waitpid(child, 0)[1] == 0
    assert quietly._inside == 0
