import dataclasses
import json
import operator

import pytest

from ssd34.errors import OptionError
from ssd34.train.examples.augment import Augmentation
from ssd34.train.options import SETTINGS, TrainOptions, parse_setting
from ssd34.train.recipe import RECIPES, read_recipe, resume_note, resume_options, settle_recipe


def settle(recipe, *changed, start="backbone", bf16=True, folded=()):
    """A recipe or the name of one, and settings as ``--set`` takes them."""
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    given = dict(map(parse_setting, changed))
    return settle_recipe(recipe, given, start=start, bf16=bf16, folded=folded)


@pytest.fixture
def reread(tmp_path):
    """A settled recipe, or the values of one, written and read again."""

    def read(note):
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(note if isinstance(note, dict) else note.to_dict()))
        return read_recipe(str(path))

    return read


def test_benchmark_is_the_published_recipe():
    """Figures: the SSD training benchmark's reference, and its best runs at batch 256."""
    options = settle("benchmark").options
    assert (options.optimizer, options.momentum) == ("sgd", 0.9)
    assert (options.batch_size, options.epochs) == (32, 60)
    assert options.peak_rate == pytest.approx(2.5e-3)
    assert (options.decay, options.decayed) == (5e-4, "all")
    assert (options.ema_decay, options.gradient_clip, options.warmup_steps) == (0, None, 0)
    assert (options.backbone_statistics, options.frozen_stages) == ("batch", 0)
    assert options.augmentation == Augmentation(
        expand=0, crop=True, flip=0.5, brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05
    )
    assert (options.matcher, options.policy) == ("iou", "mlperf")
    settings = settle("benchmark").settings
    assert settings["spec"] == "ssd300-resnet34"
    assert settings["head_norm"] is False
    assert settings["init"] == "resnet34-b627a593"
    best = settle("benchmark-256", "accumulate=8", "target_map=0.23").options
    assert (best.batch_size, best.peak_rate, best.decay) == (256, 0.0253, 1.3e-4)
    assert (best.decay_epochs, best.accumulate, best.target_map) == ((44, 55), 8, 0.23)
    assert settle("benchmark", "batch_size=64").options.peak_rate == pytest.approx(5e-3)
    assert settle("small-data").options.matcher == "atss"
    options = settle("fine-tune").options
    assert (options.matcher, options.peak_rate, options.backbone_rate) == ("atss", 1e-4, 0.3)


@pytest.mark.parametrize(("name", "first", "second"), [("benchmark", 40, 50),
                                                       ("benchmark-256", 44, 55)])  # fmt: skip
def test_the_rate_falls_exactly_at_the_epochs(name, first, second):
    options = settle(name).options
    assert options.epochs == 60
    per_epoch = 457
    rates = [
        options.rate_at(step, step / (60 * per_epoch)) / options.peak_rate
        for epoch in (first, second)
        for step in (epoch * per_epoch - 1, epoch * per_epoch)
    ]
    assert rates == pytest.approx([1, 0.1, 0.1, 0.01])


def test_what_is_automatic_depends_on_the_start_and_the_machine():
    names = ("precision", "backbone_statistics", "frozen_stages", "head_statistics")
    chosen = operator.attrgetter(*names)
    assert chosen(settle("small-data").options) == ("bf16", "frozen", 1, "batch")
    random = settle("small-data", start="random", bf16=False).options
    assert chosen(random) == ("fp32", "batch", 0, "batch")
    assert settle("small-data", start="detector").options.head_statistics == "batch"
    assert settle("fine-tune", start="detector").options.head_statistics == "frozen"


def test_every_recipe_names_settings_that_exist_and_comes_back_from_its_file(reread):
    for name in RECIPES:
        plan = settle(name, "epochs=3", "hue=0.01")
        assert set(plan.settings) == set(SETTINGS)
        again = settle(reread(plan))
        assert (again.options, again.settings) == (plan.options, plan.settings)


def test_what_was_settled_for_a_run_is_settled_anew_for_the_next(reread):
    recipe = reread(settle("small-data", "weight_decay=0.01"))
    other = settle(recipe, "optimizer=sgd", "batch_size=64", start="random", bf16=False).options
    assert other.peak_rate == pytest.approx(5e-3)
    assert other.decay == 0.01
    assert (other.precision, other.backbone_statistics, other.frozen_stages) == ("fp32", "batch", 0)
    # What the user chose stays.
    own = reread(settle("small-data", "frozen_stages=1", "learning_rate=1e-4"))
    later = settle(own, start="random")
    assert (later.options.frozen_stages, later.options.learning_rate) == (1, 1e-4)


def test_a_recipe_file_of_an_older_version_is_taken_as_it_was_settled(reread):
    plan = settle("small-data")
    old = {key: plan.to_dict()[key] for key in ("recipe", "changed", "settings")}
    again = settle(reread(old), start="random", bf16=False).options
    assert again == dataclasses.replace(plan.options, learning_rate=3e-4, weight_decay=0.05)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=7", 7), ("minutes=1.5", 1.5), ("minutes=none", None), ("crop=off", False),
        ("head_norm=true", True), ("head_norm=auto", "auto"), ("decay_epochs=4,5.5", (4.0, 5.5)),
        ("init=a=b.safetensors", "a=b.safetensors"), ("learning_rate=1e-3", 1e-3),
        ("frozen_stages=2", 2), ("spec=ssd1200-resnet18", "ssd1200-resnet18"),
    ],
)  # fmt: skip
def test_settings_are_typed(text, expected):
    value = parse_setting(text)[1]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("epochs", "key=value.*'epochs'"), ("epoch=3", "'epoch'.* epochs"),
        ("epochs=2.5", "epochs.* 2.5"), ("crop=maybe", "crop.* 'maybe'"),
        ("decay_epochs=a,b", "decay_epochs.* 40,50"), ("hue=pink", "hue.* 'pink'"),
    ],
)  # fmt: skip
def test_settings_of_the_wrong_type_are_refused(text, facts):
    with pytest.raises(OptionError, match=facts):
        parse_setting(text)


@pytest.mark.parametrize(
    "text",
    ["hue=0.9", "expand=nan", "accumulate=17", "decay_epochs=0,-1", "decayed=some",
     "target_map=1.5", "spec=yolo", "labels=voc", "epochs=none", "largest_expand=0.5",
     "learning_rate=nan", "ema_decay=1.5", "frozen_share=-3", "workers=-2", "seed=-1",
     "small_size=10", "weight_decay=-1", "gradient_clip=0", "matcher=best", "schedule=linear",
     "minutes=nan", "epochs=0", "policy=coco", "evaluate_every=0"],
)  # fmt: skip
def test_settings_outside_their_range_are_refused(text):
    with pytest.raises(OptionError, match="expected") as caught:
        settle("small-data", text)
    named = {"epochs=none": "epochs", "policy=coco": "'coco'"}.get(text, text.partition("=")[0])
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changed", "expected"),
    [("benchmark", ["epochs=30"], (20, 25)), ("benchmark-256", ["epochs=120"], (88, 110)),
     ("benchmark", ["epochs=30", "decay_epochs=10,29"], (10, 29)),
     ("benchmark", ["schedule=cosine"], None), ("benchmark", ["decay_epochs=none"], None),
     ("small-data", ["schedule=step", "decay_epochs=50"], (50,))],
)  # fmt: skip
def test_a_recipes_decays_keep_their_share_of_the_run(reread, name, changed, expected):
    plan = settle(name, *changed)
    assert plan.options.decay_epochs == expected
    assert settle(reread(plan)).options.decay_epochs == expected


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [("benchmark", ["epochs=30", "decay_epochs=20,30"], "30.*20,30.*--set decay_epochs=20,25"),
     ("small-data", ["decay_epochs=40,50"], "schedule=step.*cosine")],
)  # fmt: skip
def test_decays_that_would_never_come_are_refused(name, changed, message):
    with pytest.raises(OptionError, match=message):
        settle(name, *changed)


def test_a_length_by_the_clock_replaces_the_epochs():
    options = settle("benchmark", "minutes=5").options
    assert (options.epochs, options.minutes, options.decay_epochs) == (None, 5, None)
    assert resume_options(options, {"epochs": 3}).minutes is None
    longer = resume_options(settle("benchmark").options, {"minutes": 3.0})
    assert (longer.epochs, longer.decay_epochs) == (None, None)


def test_a_resumed_run_keeps_its_decays_unless_they_would_never_come():
    options = settle("benchmark").options
    assert resume_options(options, {"epochs": 70}).decay_epochs == (40, 50)
    with pytest.raises(OptionError, match=r"45.*40,50"):
        resume_options(options, {"epochs": 45})
    # As a run of an older version may be.
    never = dataclasses.replace(options, epochs=30)
    assert resume_options(never, {"epochs": 30, "workers": 2}).decay_epochs == (40, 50)


def test_the_recipe_of_a_resumed_run_names_what_was_changed():
    plan = settle("small-data", "epochs=3")
    note = json.loads(json.dumps(plan.to_dict()))
    changed = {"minutes": 2.0, "workers": 1}
    after = resume_note(note, resume_options(plan.options, changed), changed)
    assert after["changed"] == {"epochs": 3, "minutes": 2.0}
    assert after["settings"] == {**note["settings"], "epochs": None, "minutes": 2.0}
    assert resume_note({}, plan.options, changed) == {}


def test_a_small_size_alone_is_for_the_usual_share(reread):
    plan = settle("small-data")
    assert plan.options.small_share == 0
    for given, expected in (
        (["small_size=260"], 0.6), (["small_size=260", "small_share=0"], 0),
        (["small_size=260", "small_share=0.2"], 0.2), (["small_size=none"], 0),
    ):  # fmt: skip
        assert settle(reread(plan), *given).options.small_share == expected


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[]", "recipe"), ('{"recipe": "x"}', "recipe"), ("{", "recipe"),
        ('{"recipe": "x", "settings": {"epochs": "3"}}', "epochs"),
        ('{"recipe": "x", "settings": {"crop": 1}}', "crop.* 1"),
        ('{"recipe": "x", "settings": {"decay_epochs": ["a"]}}', "decay_epochs"),
        ('{"recipe": "x", "settings": {"speed": 1}}', "'speed'"),
        ('{"recipe": "x", "settings": {}, "settled": {"hue": "auto"}}', "hue"),
        ('{"recipe": "x", "settings": {}, "settled": 3}', "recipe"),
        ('{"recipe": "x", "settings": {"epochs": 0, "schedule": "step", "decay_epochs": [1]}}',
         "epochs .* 1 to"),
    ],
)  # fmt: skip
def test_broken_recipe_files_are_refused(tmp_path, content, named):
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(OptionError, match=named):
        read_recipe(str(path))


def test_a_recipe_as_editors_on_windows_save_it(tmp_path):
    """With a byte order mark and other line ends."""
    path = tmp_path / "recipe.json"
    path.write_bytes(b'\xef\xbb\xbf{"recipe": "x",\r\n"settings": {"epochs": 3}}\r\n')
    assert read_recipe(str(path)).settings == {"epochs": 3}


@pytest.mark.parametrize("key", ["backbone_statistics", "head_statistics"])
def test_batch_norm_that_was_folded_stays_frozen(key):
    plan = settle("small-data", start="detector", folded=(key,))
    assert plan.settings[key] == "frozen"
    with pytest.raises(OptionError, match=f"{key}=batch"):
        settle("small-data", f"{key}=batch", start="detector", folded=(key,))


FORMER = {"box_loss": "smooth-l1", "class_loss": "softmax", "multi_scale": 0.0}


@pytest.mark.parametrize(("key", "other"), [("box_loss", "giou"), ("class_loss", "focal"),
                                            ("multi_scale", 0.25)])  # fmt: skip
def test_settings_that_are_gone_are_read_where_they_changed_nothing(reread, key, other):
    plan = settle("small-data")
    note, options = plan.to_dict(), json.loads(json.dumps(dataclasses.asdict(plan.options)))
    assert TrainOptions.from_dict({**options, **FORMER}) == plan.options
    note["settings"] = {**note["settings"], **FORMER}
    assert settle(reread(note)).options == plan.options
    with pytest.raises(OptionError, match=f"{key}={other} is gone"):
        TrainOptions.from_dict({**options, **FORMER, key: other})
    note["settings"][key] = other
    with pytest.raises(OptionError, match=f"recipe.json: {key}={other} is gone"):
        reread(note)


def test_options_of_older_checkpoints_are_read():
    old = dataclasses.asdict(TrainOptions())
    for key in ("accumulate", "decayed", "decay_epochs", "head_statistics", "target_map"):
        del old[key]
    assert TrainOptions.from_dict(json.loads(json.dumps(old))) == TrainOptions()
    with pytest.raises(OptionError, match="'speed'"):
        TrainOptions.from_dict({**old, "speed": 1})
    with pytest.raises(OptionError, match=r"'augmentation\.mosaic'"):
        TrainOptions.from_dict({**old, "augmentation": {"mosaic": 0.5}})


def test_warm_up_then_cosine():
    options = TrainOptions(learning_rate=0.1, warmup_steps=10)
    for step, share, rate in ((0, 0, 0.01), (9, 0, 0.1), (100, 0.5, 0.05), (100, 1, 0)):
        assert options.rate_at(step, share) == pytest.approx(rate)
