"""``ssd34 doctor``: what is installed, what the processor can do, and what would be faster."""

import json
from importlib import metadata

import pytest

from ssd34.cli.doctor import advise, examine
from ssd34.machine import FEATURES, Cpu, thread_budget
from tests.support.cli import invoke
from tests.support.refusals import assert_facts


def cpu(*features, budget=4, processors=4):
    return Cpu(
        model="x", system="Linux x86_64", processors=processors, thread_budget=budget,
        features={name: name in features for name in FEATURES},
    )  # fmt: skip


def test_it_prints_what_a_report_of_a_problem_needs_and_the_same_as_json():
    assert_facts(
        invoke("doctor").stdout,
        "onnxruntime", metadata.version("onnxruntime"), thread_budget(),
    )  # fmt: skip
    found = json.loads(invoke("doctor", "--json").stdout)
    assert found["libraries"]["numpy"] == metadata.version("numpy")
    assert found["extras"]["export"] == []
    assert "dev" not in found["extras"]


def test_an_extra_names_what_it_lacks_also_through_another_one(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "hotcoco":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    extras = examine(cpu())["extras"]
    assert extras["evaluate"] == extras["train"] == ["hotcoco"]
    assert extras["export"] == []


def test_without_an_installed_package_there_are_no_extras(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert examine(cpu())["extras"] == {}


@pytest.mark.parametrize(
    ("machine", "installed", "facts"),
    [
        (cpu("avx2", "vnni"), ["native"], ["--engine native"]),
        (cpu("avx2", "vnni"), ["openvino"], ["ssd34[native]"]),
        (cpu("avx2", "vnni", "amx"), ["native"], ["ssd34[openvino]"]),
        (cpu("avx2", "vnni", "amx"), ["openvino"], ["--engine openvino"]),
        (cpu("avx2"), [], ["ssd34[native]", "VNNI"]),
        (cpu("vnni", budget=2, processors=64), [], ["2 of 64"]),
    ],
)
def test_advice(machine, installed, facts):
    advice = advise(machine, installed=installed)
    assert len(advice) == len(facts)
    assert all(fact in text for fact, text in zip(facts, advice, strict=True))
    assert any("SSD34_NATIVE_LEVEL=amx" in text for text in advice) == machine.features["amx"]
