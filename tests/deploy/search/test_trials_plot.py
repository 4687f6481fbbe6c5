from PIL import Image

from ssd34.deploy.search.gate import Criterion
from ssd34.deploy.search.plot import plot_trials
from tests.deploy.search.test_trials import trial


def test_a_name_is_no_formula(tmp_path):
    """A file may be called so, and the text between dollars would be read as mathematics."""
    path = tmp_path / "trials.png"
    plot_trials([trial(1)], path, criterion=Criterion(), title=r"$\broken{$ on $_$")
    with Image.open(path) as image:
        assert image.size == (960, 600)
