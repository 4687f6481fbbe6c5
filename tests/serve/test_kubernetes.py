"""The manifest in deploy/ says of the server what is so."""

import pytest

from ssd34.cli.app import commands
from tests.conftest import ROOT

yaml = pytest.importorskip("yaml")


def test_the_manifest_fits_the_server(server):
    text = (ROOT / "deploy" / "kubernetes.yaml").read_text()
    by_kind = {one["kind"]: one for one in yaml.safe_load_all(text)}
    pod = by_kind["Deployment"]["spec"]["template"]
    [container] = pod["spec"]["containers"]

    command = commands.commands["serve"]
    # As the image's entry point begins, which the arguments follow.
    given = command.make_context("serve", ["--host", "0.0.0.0", *container["args"]]).params
    [port] = container["ports"]
    assert port["containerPort"] == given["port"]
    [key] = [option for option in command.params if option.name == "api_key"]
    assert [one["name"] for one in container["env"]] == [key.envvar]
    longest = given["shutdown_delay"] + given["read_timeout"] + given["timeout"]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= longest + 5

    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[kind]["httpGet"]
        assert probe["port"] == port["name"]
        assert server.get(probe["path"]).status == 200

    labels = pod["metadata"]["labels"]
    service = by_kind["Service"]["spec"]
    assert service["selector"] == labels
    assert by_kind["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert service["ports"][0]["targetPort"] == port["name"]
    scaled = by_kind["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert scaled["name"] == by_kind["Deployment"]["metadata"]["name"]
    # It is the autoscaler's: to apply the manifest again would take all but so many away.
    assert "replicas" not in by_kind["Deployment"]["spec"]
