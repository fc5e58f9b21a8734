"""The segmenter as MLflow serves it: pictures in base64 come in, masks as PNG in base64 go out.

MLflow stores this module's few lines of `CODE` and the file of weights: no pickle. `mlflow models serve` and
`mlflow.pyfunc.load_model` run them in an environment in which this package is installed.
"""

from __future__ import annotations

import base64
import binascii
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

CODE = '''"""Made by wsss: mlflow models serve runs it."""

from mlflow.models import set_model

from cluster.tracking.served_segmenter import served

set_model(served())
'''
WEIGHTS = "weights"
"""Name of the model's one artifact."""
IMAGE, MASK = "image", "mask"
"""Columns of a request and of its answer."""


def mask_of(segmenter: Any, picture: str) -> str:
    """A picture file (JPEG, PNG, …) in base64 -> its mask in base64: a PNG of one channel and of the picture's size,
    in which 0 is background and other values are class ids. `segmenter`: what `wsss.load` returns."""
    from shards.images import encode_png

    try:
        data = base64.b64decode(picture, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{IMAGE} is not base64: send the bytes of a picture file in base64") from None
    return base64.b64encode(encode_png(segmenter(data).mask)).decode()


def _without_types(method: F) -> F:
    """MLflow would derive the signature from annotations, and warn of some; `save_served` gives it instead."""
    method.__annotations__ = {}
    return method


def served() -> Any:
    """The model that MLflow calls."""
    shown = warnings.showwarning

    def show(message: Warning | str, *where: Any, **named: Any) -> None:
        if "Add type hints to the `predict` method" not in str(message):
            shown(message, *where, **named)

    # MLflow asks for types when the class is defined, under filters of its own; the signature says them.
    warnings.showwarning = show
    try:
        return _served_class()()
    finally:
        warnings.showwarning = shown


def _served_class() -> Any:
    from mlflow.pyfunc import PythonModel

    class ServedSegmenter(PythonModel):
        """Loads the weights once, and answers each picture of a request."""

        def load_context(self, context: Any) -> None:
            """Called by MLflow before the first request."""
            import wsss

            self._segmenter = wsss.load(context.artifacts[WEIGHTS])

        @_without_types
        def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
            """A table with a column `image`; returns one with a column `mask`, row by row."""
            import pandas

            return pandas.DataFrame({MASK: [mask_of(self._segmenter, one) for one in model_input[IMAGE]]})

    return ServedSegmenter


def save_served(weights: Path, folder: Path, *, model_id: str) -> None:
    """Write the model's files: the weights, the code that loads them, and an example of a request."""
    import pandas
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types.schema import ColSpec, Schema

    code = folder.with_name(f"{folder.name}.py")
    code.write_text(CODE)
    try:
        save_model(
            folder,
            python_model=str(code),
            artifacts={WEIGHTS: str(weights)},
            signature=ModelSignature(Schema([ColSpec("string", IMAGE)]), Schema([ColSpec("string", MASK)])),
            input_example=pandas.DataFrame({IMAGE: [example_picture()]}),
            pip_requirements=["wsss"],
            mlflow_model=Model(model_id=model_id),
        )
    finally:
        code.unlink()


def example_picture() -> str:
    """A small drawn picture in base64."""
    from shards.images import encode_png

    rows, columns = np.mgrid[0:48, 0:64]
    drawn = np.stack([4 * columns, 5 * rows, 255 - 4 * columns], axis=-1).astype(np.uint8)
    return base64.b64encode(encode_png(drawn)).decode()
