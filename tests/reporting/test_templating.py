"""Image encoding for reports."""

import base64
import io

import numpy as np
from PIL import Image

from verbspace.reporting.templating import jpeg_data_uri


def test_data_uri_contains_the_image_as_jpeg() -> None:
    rgb = np.linspace(0, 255, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    media_type, _, content = jpeg_data_uri(rgb).partition(",")
    assert media_type == "data:image/jpeg;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).astype(int)
    assert np.abs(decoded - rgb).mean() < 3
