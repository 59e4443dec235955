"""Pictures that a page embeds: small PNGs and nothing else, whatever a run's files hold."""

import base64
import io

MOST_PIXELS = 2**26


def check_png(text: str) -> None:
    """Raise ValueError for what is no small PNG in base64."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as picture:
            size = picture.size
            picture.verify()
    except Exception as error:  # Pillow raises whatever the damaged bytes lead it to
        raise ValueError(f"png does not hold a PNG image: {type(error).__name__}") from error
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"png has {size[0]}x{size[1]} pixels")
