import pytest

from ssd34.runtime.native import levels
from tests.support.spelled_out import (
    AMX_SPELLED_OUT,
    AVX_VNNI_OF_AVX512,
    compile_spelled_out,
)


@pytest.fixture(autouse=True, scope="module")
def other_levels():
    """AMX's program runs here, by its name, whatever the processor, and AVX-VNNI's with AVX-512."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "LEVELS", (*levels.LEVELS, AMX_SPELLED_OUT, AVX_VNNI_OF_AVX512))
        if levels.is_available(AMX_SPELLED_OUT):
            compile_spelled_out()
        yield
