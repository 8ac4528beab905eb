"""Image uploads: from a multipart request to the bytes of its files.

The classes describe the input to BentoML (OpenAPI page, clients) but read the request themselves: BentoML's own reader
answers a malformed form with status 500 and fetches a text field as a URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from bentoml import IODescriptor
from bentoml.validators import ContentType
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from tasks.serving.http_errors import HttpError
from tasks.vision.data.formats.table import NAMES

MAX_IMAGES = 128
EXAMPLE = "curl -F {field}=@picture.png"

Image = Annotated[Path, ContentType("image/*")]


class NoInput(IODescriptor):  # type: ignore[misc]  # BentoML is untyped here
    """No input: a request body is ignored."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Self:
        """Return the empty input."""
        return cls()


class _Upload(IODescriptor):  # type: ignore[misc]  # BentoML is untyped here
    field: ClassVar[str]

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Self:
        """Read the files of the field.

        Raises:
            HttpError: 415 for another content type, 400 for a malformed or unfinished form, or a missing, empty or
                repeated field.
        """
        example = EXAMPLE.format(field=cls.field)
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "multipart/form-data":
            raise HttpError(415, f"content type {kind!r} cannot be read; send multipart/form-data: {example}")
        try:
            form = await request.form(max_files=MAX_IMAGES, max_fields=MAX_IMAGES)
        except HTTPException as error:
            raise HttpError(400, f"the form cannot be read ({error.detail}); send up to {MAX_IMAGES} files") from error
        except ClientDisconnect as error:
            raise HttpError(400, "the client disconnected during the upload") from error
        try:
            values = form.getlist(cls.field)
            if not values:
                names = ", ".join(sorted(set(form.keys()))) or "none"
                raise HttpError(400, f"field {cls.field!r} is missing (fields sent: {names}); send a file: {example}")
            if not all(isinstance(value, UploadFile) for value in values):
                raise HttpError(400, f"field {cls.field!r} is text, not a file; send a file: {example}")
            uploads = [value for value in values if isinstance(value, UploadFile)]
            return cls._of({cls._label(i, upload): await upload.read() for i, upload in enumerate(uploads)})
        finally:
            await form.close()

    @classmethod
    def _label(cls, index: int, upload: UploadFile) -> str:
        return f"{cls.field}[{index}] {upload.filename or ''!r}"

    @classmethod
    def _of(cls, files: Mapping[str, bytes]) -> Self:
        # Not validated: the declared type is what a client sends, a file; a method gets its bytes.
        return cls.model_construct(**{cls.field: files})  # type: ignore[no-any-return]


class ImageUpload(_Upload):
    """One file in the field `image`."""

    field = "image"
    image: Image = Field(description=f"A {NAMES} file.")

    @classmethod
    def _of(cls, files: Mapping[str, bytes]) -> Self:
        if len(files) != 1:
            raise HttpError(
                400, f"field 'image' has {len(files)} files; send one, or all as 'images' to /predict_batch"
            )
        return super()._of(files)


class BatchUpload(_Upload):
    """Several files in the field `images`."""

    field = "images"
    images: list[Image] = Field(description=f"Up to {MAX_IMAGES} files, each {NAMES}.")
