import pytest

from ssd34.runtime.native import levels
from tests.support.spelled_out import AMX_SPELLED_OUT, compile_spelled_out


@pytest.fixture(autouse=True, scope="module")
def amx_spelled_out():
    """AMX's program runs here, by its name, whatever the processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "LEVELS", (*levels.LEVELS, AMX_SPELLED_OUT))
        if levels.is_available(AMX_SPELLED_OUT):
            compile_spelled_out()
        yield
