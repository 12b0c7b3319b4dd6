import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowrnn import config as configs
from rowrnn.config import Config, ModelConfig, ParallelConfig, TrainConfig
from rowrnn.errors import ConfigError
from rowrnn.store import members
from rowrnn.store.members import Spec, make_members

CONFIG = Config(ModelConfig(8, 16), train=TrainConfig(seed=9, examples=1000))
RATE = "optimizer.learning_rate"


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0:4", (0, 1, 2, 3)),
        ("7", (7,)),
        ("3,5,7", (3, 5, 7)),
        (" 0:2 , 10 ", (0, 1, 10)),
        ("4294967295", (2**32 - 1,)),
    ],
)
def test_seeds(text, seeds):
    assert members.parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is neither a seed nor a range; write 0:64"),
        ("1,,2", "'' is neither"),
        ("a", "'a' is neither"),
        ("-1", "'-1' is neither"),
        ("1.5", "'1.5' is neither"),
        ("0:4:2", "'0:4:2' is neither"),
        ("٣", "is neither"),
        ("4:4", "'4:4' holds no seed; the end must be larger"),
        ("4:0", "'4:0' holds no seed"),
        ("0:9999999999", "must be at most 1,000,000 seeds"),
        ("0:600000,600000:1200000", "must be at most 1,000,000 seeds"),
    ],
)
def test_bad_seeds(text, says):
    with pytest.raises(ConfigError, match=says):
        members.parse_seeds(text)


@given(st.text() | st.text("0123456789:,- "))
def test_any_text_is_seeds_or_a_config_error(text):
    try:
        seeds = members.parse_seeds(text)
    except ConfigError:
        return
    assert seeds
    assert all(isinstance(seed, int) and seed >= 0 for seed in seeds)


def test_a_grid():
    axes = ["optimizer.learning-rate=1e-3, 3e-3", "--model.hidden_size=8,16", "optimizer.name=sgd"]
    assert members.parse_grid(axes) == {
        RATE: (1e-3, 3e-3),
        "model.hidden_size": (8, 16),
        "optimizer.name": ("sgd",),
    }


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ([RATE], "must be written as name=value,value"),
        ([RATE + "="], "must be written as name=value,value"),
        (["=1"], "unknown name "),
        (["optimizer.lerning_rate=1"], "did you mean optimizer.learning_rate"),
        ([RATE + "=1,x"], "optimizer.learning_rate = 'x': must be a number"),
        ([RATE + "=1,"], "optimizer.learning_rate = '': must be a number"),
        (["model.hidden_size=1.5"], "model.hidden_size = '1.5': must be an integer"),
        ([RATE + "=1", RATE + "=2"], "optimizer.learning_rate is given twice"),
    ],
)
def test_a_bad_grid(axes, says):
    with pytest.raises(ConfigError, match=says):
        members.parse_grid(axes)


@given(st.lists(st.text() | st.builds("{}={}".format, st.sampled_from(sorted(configs.fields())),
                                      st.text())))  # fmt: skip
def test_any_text_is_a_grid_or_a_config_error(axes):
    try:
        grid = members.parse_grid(axes)
        make_members(Spec(CONFIG, (0,), grid))
    except ConfigError:
        return


def test_members_come_seed_by_seed_each_with_a_config_and_a_name_of_its_own():
    spec = Spec(CONFIG, (5, 2), {RATE: (0.1, 0.2), "model.hidden_size": (4, 8)})
    found = make_members(spec)
    assert [member.name for member in found][:5] == [
        "learning_rate=0.1,hidden_size=4,seed=5",
        "learning_rate=0.1,hidden_size=8,seed=5",
        "learning_rate=0.2,hidden_size=4,seed=5",
        "learning_rate=0.2,hidden_size=8,seed=5",
        "learning_rate=0.1,hidden_size=4,seed=2",
    ]
    assert len({member.name for member in found}) == len(found) == 8
    assert found[0].point == "learning_rate=0.1,hidden_size=4"
    for member in found:
        values = {"train.seed": member.seed, "parallel.devices": 1, **member.varied}
        assert member.config == configs.replace(CONFIG, values)


def test_without_a_grid_a_member_is_the_config_with_its_seed():
    (member,) = make_members(Spec(CONFIG, (4,)))
    assert member.name == "seed=4"
    assert member.point == ""
    assert list(configs.differences(CONFIG, member.config)) == [
        ("train.seed", 9, 4),
        ("parallel.devices", 0, 1),
    ]


@pytest.mark.parametrize(
    ("layout", "devices"),
    [({}, 1), ({"devices": 4}, 1), ({"seed": 2}, 1), ({"devices": 4, "data": 2, "seed": 2}, 2)],
)
def test_a_member_runs_alone_on_the_devices_that_share_its_batch(layout, devices):
    config = dataclasses.replace(CONFIG, parallel=ParallelConfig(**layout))
    (member,) = make_members(Spec(config, (0,)))
    assert member.config.parallel.devices == devices
    assert member.config.parallel.seed is None
    assert configs.digest(member.config) == configs.digest(
        make_members(Spec(CONFIG, (0,)))[0].config
    )


@pytest.mark.parametrize(
    ("vary", "init_seed", "seeds"),
    [
        ("both", None, (3, None)),
        # As for rowrnn train --train.seed 3: nothing is left of an init seed.
        ("both", 5, (3, None)),
        ("init", None, (9, 3)),
        ("init", 5, (9, 3)),
        ("data", None, (3, 9)),
        ("data", 5, (3, 5)),
    ],
)
def test_what_a_seed_decides(vary, init_seed, seeds):
    config = configs.replace(CONFIG, {"train.init_seed": init_seed})
    (member,) = make_members(Spec(config, (3,), vary=vary))
    assert (member.config.train.seed, member.config.train.init_seed) == seeds


def test_a_length_in_the_grid_replaces_the_other_kind():
    (member,) = make_members(Spec(CONFIG, (0,), {"train.epochs": (2,)}))
    assert (member.config.train.epochs, member.config.train.examples) == (2, None)
    with pytest.raises(ConfigError, match="only one of the two can set the length"):
        make_members(Spec(CONFIG, (0,), {"train.epochs": (1, 2), "train.examples": (500, 900)}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seeds": ()}, "seeds: must hold at least one seed"),
        ({"seeds": (1, 2, 1)}, "seeds: 1 is given 2 times"),
        ({"seeds": (-1,)}, "train.seed = -1: must be an integer from 0"),
        ({"seeds": (2**32,)}, "train.seed = 4294967296: must be"),
        ({"seeds": (0.5,)}, "train.seed = 0.5: must be an integer"),
        ({"vary": "all"}, "vary = 'all': must be one of both, init, data"),
        ({"grid": {"optimizer.lr": (1,)}}, "unknown name optimizer.lr"),
        ({"grid": {"optimizer.learning_rat": (1,)}}, "did you mean optimizer.learning_rate"),
        ({"grid": {RATE: ()}}, "at least one"),
        ({"grid": {RATE: (0.1, 0.1)}}, "must be different values"),
        ({"grid": {RATE: (0.1, -1.0)}}, "optimizer.learning_rate = -1.0: must be a number"),
        ({"grid": {"train.seed": (1, 2)}}, "train.seed cannot vary in a grid; give .* --seeds"),
        ({"grid": {"train.init_seed": (1,)}}, "train.init_seed cannot vary in a grid"),
        *(
            ({"grid": {name: (1,)}}, f"{name} cannot vary in a grid: it does not change what")
            for name in sorted(configs.FREE)
        ),
        ({"config": configs.replace(CONFIG, {"train.batch_size": 0})}, "train.batch_size = 0"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_swept(change, says):
    with pytest.raises(ConfigError, match=says):
        make_members(dataclasses.replace(Spec(CONFIG, (0, 1)), **change))


def test_members_that_differ_in_seeds_and_traced_numbers_share_programs():
    spec = Spec(CONFIG, (0, 1), {RATE: (0.1, 0.2), "model.hidden_size": (4, 8)})
    groups = members.groups(make_members(spec))
    assert [len(group) for group in groups] == [4, 4]
    assert [{m.config.model.hidden_size for m in group} for group in groups] == [{4}, {8}]
    assert sorted(m.name for group in groups for m in group) == sorted(
        m.name for m in make_members(spec)
    )


@pytest.mark.parametrize("name", ["model.dropout", "optimizer.clip_norm", "optimizer.ema_decay"])
def test_zero_leaves_a_part_of_the_program_out_and_makes_a_group_of_its_own(name):
    groups = members.groups(make_members(Spec(CONFIG, (0,), {name: (0.0, 0.3, 0.6)})))
    assert [[m.varied[name] for m in group] for group in groups] == [[0.0], [0.3, 0.6]]
