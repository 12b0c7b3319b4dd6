"""The page of `rowrnn export --web` without a browser: what is in it, and what is refused."""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from networks import random_network
from oracle import network_logits

from rowrnn import config as configs
from rowrnn.config import Config, ModelConfig
from rowrnn.core.lstm import Affine
from rowrnn.errors import ConfigError
from rowrnn.show import web


class Parts(HTMLParser):
    """The elements of a page, and the texts of its style and scripts by their tag and type."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts = [], {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem:
            tag, attributes = self.elements[-1]
            key = tag, attributes.get("type")
            self.texts[key] = self.texts.get(key, "") + data


def decoded(html):
    """The parameters in a page, as its scripts say that they lie there, and what is beside them."""
    document = json.loads(Parts(html).texts["script", "application/json"])
    numbers = sum(
        np.frombuffer(base64.b64decode(document[name]), "<f2").astype(np.float64)
        for name in ("weights", "rests")
    )
    used, hidden, params = 0, document["hidden"], {}

    def take(*shape):
        nonlocal used
        used += int(np.prod(shape))
        return numbers[used - int(np.prod(shape)) : used].reshape(shape)

    for layer in range(document["layers"]):
        inputs = hidden if layer else document["pixels"]
        params[f"lstm_{layer}"] = Affine(take(inputs + hidden, 4 * hidden), take(4 * hidden))
    params["readout"] = Affine(take(hidden, document["classes"]), take(document["classes"]))
    assert used == numbers.size
    return params, document


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (ModelConfig(), (28, 28)),
        (ModelConfig(0, 20, layers=2, forget_bias=-3, pooling="mean"), (7, 12)),
    ],
)
def test_numpy_computes_the_same_from_the_page_alone(config, shape):
    classifier = random_network(config, shape)
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    params, document = decoded(web.page(classifier, ""))
    assert (document["rows"], document["pixels"]) == shape
    logits = network_logits(params, images, forget_bias=0, pooling=document["pooling"])[-1]
    np.testing.assert_allclose(logits, classifier.logits(images), atol=1e-4)


def test_the_page_allows_what_is_in_it_and_nothing_else():
    html = web.page(random_network(ModelConfig(4, 6)), "")
    elements = Parts(html).elements
    (policy,) = [a["content"] for tag, a in elements
                 if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]  # fmt: skip
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        digest = hashlib.sha256(Parts(html).texts[tag, None].encode()).digest()
        assert rules.pop(rule) == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert rules.pop("img-src") == "data:"
    assert set(rules.values()) == {"'none'"}
    assert "default-src" in rules
    # Nothing to load, and nothing that a policy of hashes would not let run.
    assert [a["href"] for _, a in elements if "href" in a] == ["data:,"]
    assert not [a for _, a in elements if {"src", "style"} & set(a)]
    assert not [name for _, a in elements for name in a if name.startswith("on")]
    assert set(re.findall(r"https?://[^\"'\s]+", html)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("name", ["</title><script>", "\ud800\x00\u202e", "{{ 1 }}", "x" * 10_000])
def test_a_name_from_a_run_is_text(name):
    html = web.page(random_network(ModelConfig(0, 3), dataset=name), "")
    plain = web.page(random_network(ModelConfig(0, 3), dataset="mine"), "")
    assert Parts(html).elements == Parts(plain).elements
    assert Parts(html).texts == Parts(plain).texts
    assert len(html.encode()) < len(plain) + 200


@pytest.mark.parametrize(
    ("config", "shape", "classes", "words"),
    [
        (ModelConfig(128, 1_500), (28, 28), 10, "9,189,010 numbers"),
        (ModelConfig(0, 200, layers=30), (28, 28), 10, "9,488,410 numbers"),
        (ModelConfig(0, 4), (513, 28), 10, "513×28"),
        (ModelConfig(0, 4), (28, 513), 10, "28×513"),
        (ModelConfig(0, 4), (28, 28), 257, "257"),
    ],
)
def test_what_no_browser_could_draw_is_refused(config, shape, classes, words):
    # Before anything of its size is made: there are no parameters.
    classifier = dataclasses.replace(
        random_network(ModelConfig(0, 4)),
        config=Config(config),
        params={},
        shape=shape,
        classes=classes,
    )
    with pytest.raises(ConfigError, match=words):
        web.page(classifier, "")


@pytest.mark.parametrize("value", [65_520, -1e30, np.nan, np.inf])
def test_what_float16_does_not_hold_is_refused(value):
    classifier = random_network(ModelConfig(0, 4))
    classifier.params["readout"].bias[3] = value
    with pytest.raises(ConfigError, match="float16"):
        web.page(classifier, "")


def test_a_network_of_colour_is_refused():
    network = random_network(ModelConfig(0, 8), (4, 9), 3)
    config = configs.replace(network.config, {"data.channels": 3})
    with pytest.raises(ConfigError, match="draws in grey, and this network reads colour"):
        web.page(dataclasses.replace(network, config=config), "")
