"""Numbers with their nouns; a key that stands twice is an error where people write by hand."""

import json

import pytest
import yaml

from ssd34.datasets.open import open_dataset
from ssd34.deploy.publish.manifest import find_manifest_entry
from ssd34.deploy.search.config import read_config
from ssd34.errors import DatasetError, ModelError, OptionError
from ssd34.text import counted, parse_json, parse_yaml
from ssd34.train.recipe import read_recipe


@pytest.mark.parametrize(
    "text",
    ["0 pictures", "1 picture", "21 varied pictures", "1 box", "2 boxes", "1 class", "80 classes"],
)
def test_one_and_many(text):
    number, noun = text.split(" ", 1)
    singular = {"boxes": "box", "classes": "class"}.get(noun, noun.removesuffix("s"))
    assert counted(int(number), noun if number == "1" else singular) == text


GOOD = """
a: &base {x: 1, "y": [1, 2], no: yes}
b: {<<: *base, x: 2}
c: {<<: *base, "1": text, 1: number}
d: {e: &e {<<: *base, x: 3}}
f: {<<: *e, y: 4}
"""


def test_good_yaml_is_what_pyyaml_makes_of_it():
    assert parse_yaml(GOOD) == yaml.safe_load(GOOD)
    assert parse_yaml(b"\xef\xbb\xbfa: no\n1: 2", scalars_as_text=True) == {"a": "no", "1": "2"}
    assert parse_yaml("") is None


def test_good_json_is_what_json_makes_of_it():
    text = r'{"a": {"x": 1}, "b": [{"x": 2}, {"x": "x\": }{"}], "x": "", "c\"": {}}'
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("parse", "text", "key", "line", "first"),
    [(parse_yaml, "a: 1\nb: 2\na: 3\n", "a", 3, 1),
     (parse_yaml, "s:\n  x: 1\n\n  'x': 2\n", "x", 4, 2),
     (parse_yaml, "- {k: 1,\n   k: 1}\n", "k", 2, 1),
     (parse_yaml, "1: a\n2: b\n0x1: c\n", "1", 3, 1),
     (parse_yaml, "a: {q: 1}\nb:\n- c: {q: 1, r: 2, q: 3}\n", "q", 3, 3),
     (parse_json, '{"a": 1,\n "a": 1}', "a", 2, ""),
     (parse_json, '{"s": {"x": "}", "y": []},\n"t": [{"x": 1,\n\n"\\u0078": 2}]}', "x", 4, ""),
     (parse_json, '{"a\\"": 1, "a\\"" : 2}', 'a"', 1, "")],
)  # fmt: skip
def test_a_key_twice(parse, text, key, line, first):
    with pytest.raises(ValueError, match=rf"^line {line}: '?{key}'? .*{first}$"):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [*((parse_yaml, text) for text in (
        "[" * 600, "{a: " * 600, "a: [", "a: 2024-13-45", "\x00", "!!bool z", "!!timestamp z")),
     *((parse_json, text) for text in ("[" * 200_000, "{", "", "{'a': 1}"))],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_yaml_or_json(parse, text):
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


def test_each_file_that_people_write(tmp_path):
    quantize = tmp_path / "quantize.yaml"
    quantize.write_text("criterion:\n  max_drop: 0.1\nrounds: 3\ncriterion: {min_speedup: 2}\n")
    with pytest.raises(OptionError, match=r"quantize\.yaml.*line 4: 'criterion'"):
        read_config(quantize)
    (tmp_path / "images").mkdir()
    for text, told in (
        ("names: [a]\nval: images\nnames: [b]\n", "line 3: 'names'"),
        ("val: images\nnames:\n  0: a\n  1: b\n  0: c\n", "line 5: '0'"),
        ("val: images\nnames:\n  0: a\n  00: b\n", "names.*0, 00"),
    ):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(DatasetError, match=rf"data\.yaml.*{told}"):
            open_dataset(str(tmp_path / "data.yaml"))
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"recipe": "plain",\n "settings": {"lr": 1,\n "lr": 2}}')
    with pytest.raises(OptionError, match=r"recipe\.json.*line 3: 'lr'"):
        read_recipe(str(recipe))
    manifest = tmp_path / "ONNX_HUB_MANIFEST.json"
    manifest.write_text('[{"model_path": "a.onnx",\n"model_path": "b.onnx"}]')
    with pytest.raises(ModelError, match=r"MANIFEST\.json.*line 2: 'model_path'"):
        find_manifest_entry(manifest, "b.onnx")
