"""The dialects' sizes of images are those of transformers, which takes long to import."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

pytest.importorskip('transformers')

from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from segzero_ros.reasoning.dialects import native_size
from segzero_ros.types import BadImage


@given(st.integers(1, 4000), st.integers(1, 4000))
@settings(deadline=None)
def test_native_sizes_are_those_of_the_models_own_processor(width: int, height: int) -> None:
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(BadImage, match='too long and thin'):
            native_size(width, height)
        return
    theirs = smart_resize(height, width, 28, 4 * 28 * 28, 1280 * 28 * 28)
    assert native_size(width, height) == theirs[::-1]
