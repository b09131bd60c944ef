"""Image encoding for reports."""

import io

import numpy as np
from PIL import Image

from verbspace.reporting.images import data_uri, encode_jpeg, encode_png


def test_image_encoding() -> None:
    rgb = np.linspace(0, 255, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(rgb)))), rgb)
    lossy = np.asarray(Image.open(io.BytesIO(encode_jpeg(rgb)))).astype(int)
    assert np.abs(lossy - rgb).mean() < 3
    assert data_uri(encode_png(rgb)).startswith("data:image/png;base64,iVBOR")
    assert data_uri(encode_jpeg(rgb)).startswith("data:image/jpeg;base64,/9j/")
