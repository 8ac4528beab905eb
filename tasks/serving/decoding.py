"""Turns uploads into pixels: how large an image and a request may be, and which thread or process decodes them.

What an image costs is known from its header, before anything is decoded:

- up to 16 KiB of uploads that hold no large image: one thread, so that they do not wait behind photos;
- other uploads without a large image: two threads;
- uploads with one: one at a time in the worker, in a process of its own that can be ended (`data.decoder_process`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np
from PIL import Image

from tasks.errors import DataError
from tasks.serving.batching import Job
from tasks.serving.http_errors import HttpError
from tasks.serving.request_bodies import Files
from tasks.serving.room import Room
from tasks.settings import Settings
from tasks.vision.data.decoder_process import AbandonedError, DecoderProcess, belongs_apart
from tasks.vision.data.images import ImageTooLargeError, open_image, pixels

P = ParamSpec("P")
T = TypeVar("T")

# Bytes of a request up to which it is decoded by the thread for small ones. One thread decodes them faster than two,
# which would take Python's lock from each other, and there they do not wait behind photos.
SMALL = 16 * 2**10
DECODERS = 2  # threads for larger requests
MEGAPIXEL = 2**20
# Pixels for the model that wait or are worked on: 128 images of 224 x 224 take 19 MB, and 64 requests may hold as many.
WAITING_BYTES = 64 * 2**20
NICENESS = 10  # of the process for large images: who sends small ones should not notice it
BUSY_SECONDS = 5  # until a client should try again with large images


class Decoding:
    """Decodes the images of jobs and passes the jobs on. One per worker."""

    def __init__(self, settings: Settings, ready: Callable[[Job], None]) -> None:
        """Take the limits, and what is done with a job that has its images, in the thread that decoded them."""
        self._image_megapixels = settings.serving_max_image_megapixels
        self._request_megapixels = settings.serving_max_request_megapixels
        self._ready = ready
        self._small, self._large = ThreadPoolExecutor(1, "decode-small"), ThreadPoolExecutor(DECODERS, "decode-large")
        self._apart = ThreadPoolExecutor(1, "decode-apart")
        self._process = DecoderProcess(NICENESS)
        self._room = Room(WAITING_BYTES)
        self._lock = threading.Lock()
        self._pixels_apart = 0  # of the requests that wait for the process

    def start(self, job: Job, files: Callable[[], Files], size: int) -> None:
        """Begin with a job; its answer is an HttpError if its images are not good.

        Args:
            job: whose images these are.
            files: reads them out of the request; called in a thread.
            size: of the request in bytes.
        """
        (self._small if size <= SMALL else self._large).submit(self._run, job, files)

    def stop(self) -> None:
        """End the threads and the process."""
        for threads in (self._small, self._large, self._apart):
            threads.shutdown(wait=False, cancel_futures=True)
        self._process.stop()

    def _run(self, job: Job, files: Callable[[], Files]) -> None:
        if job.answer.done():
            return  # its time is over, or its client gone
        try:
            opened = self._opened(files())
            if any(belongs_apart(image, job.model.shape[1]) for _, image in opened):
                self._wait_for_process(job, files, sum(image.info["pixels"] for _, image in opened))
            else:
                self._decode(job, opened)
        except BaseException as error:  # HttpError is no Exception
            job.fail(error)

    def _opened(self, files: Files) -> list[tuple[str, Image.Image]]:
        """Read the headers of images, up to the first that has too many pixels, alone or with those before it."""
        opened = []
        total = 0
        for name, data in files:
            image = _of(name, open_image, data)
            size = int(image.info["pixels"])
            total += size
            if size > self._image_megapixels * MEGAPIXEL:
                raise HttpError(
                    413,
                    f"{name}: {size} pixels ({image.width} x {image.height}) are over "
                    f"{self._image_megapixels * MEGAPIXEL} (SERVING_MAX_IMAGE_MEGAPIXELS={self._image_megapixels}); "
                    "send a smaller image",
                )
            if total > self._request_megapixels * MEGAPIXEL:
                raise HttpError(
                    413,
                    f"the images have {total} pixels or more together, over {self._request_megapixels * MEGAPIXEL} "
                    f"(SERVING_MAX_REQUEST_MEGAPIXELS={self._request_megapixels}); send fewer or smaller ones",
                )
            opened.append((name, image))
        return opened

    def _wait_for_process(self, job: Job, files: Callable[[], Files], total: int) -> None:
        """Queue a job with large images, unless those that wait have as many pixels as a request may have."""
        with self._lock:
            if self._pixels_apart and self._pixels_apart + total > self._request_megapixels * MEGAPIXEL:
                text = f"large images of {self._pixels_apart} pixels wait to be decoded; try again in {BUSY_SECONDS} s"
                raise HttpError(503, text, retry_seconds=BUSY_SECONDS)
            self._pixels_apart += total
        # The files are read once more: what has been read of them would take memory while the job waits.
        self._apart.submit(self._run_apart, job, files, total)

    def _run_apart(self, job: Job, files: Callable[[], Files], total: int) -> None:
        try:
            if not job.answer.done():
                self._decode(job, files())
        except BaseException as error:
            job.fail(error)
        finally:
            with self._lock:
                self._pixels_apart -= total

    def _decode(self, job: Job, found: Sequence[tuple[str, bytes | Image.Image]]) -> None:
        """Decode the images of a job, opened here or as files by the process, and pass it on."""
        channels, size, _ = job.model.shape
        needed = len(found) * channels * size**2
        if not self._room.take(needed, job.answer.done):
            return
        job.when_done(lambda: self._room.give_back(needed))
        images = np.empty((len(found), channels, size, size), np.uint8)
        for index, (name, image) in enumerate(found):
            if job.answer.done():
                return
            if isinstance(image, bytes):
                try:
                    images[index] = _of(name, self._process.decode, image, channels, size, job.answer.done)
                except AbandonedError:
                    return
            else:
                images[index] = _of(name, pixels, image, channels, size)
        job.images = images
        self._ready(job)


def _of(name: str, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that reads an image; its error names the image."""
    try:
        return read(*args, **kwargs)
    except DataError as error:
        raise HttpError(413 if isinstance(error, ImageTooLargeError) else 400, f"{name}: {error}") from error
