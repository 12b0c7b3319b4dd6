import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_states import FACTS, abstract, create

from rowrnn.errors import DivergedError, RunError
from rowrnn.store import checkpoint
from rowrnn.store.checkpoint import CheckpointWriter


def restored(directory, which="last"):
    """The arrays of what `restore` gives, by name."""
    result = checkpoint.restore(directory, abstract, which)
    assert result is not None
    return checkpoint.to_arrays(result[0])


def save(directory, steps, accuracies=None, keep=10):
    """Saves a state for each step, all with different parameters."""
    writer = CheckpointWriter(directory, keep)
    for position, step in enumerate(steps):
        accuracy = accuracies[position] if accuracies else None
        writer.save(create(step, step), FACTS | {"validation_accuracy": accuracy})
    writer.close()


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        assert array.tobytes() == theirs[name].tobytes(), name


def test_what_was_saved_comes_back_to_the_bit(tmp_path):
    save(tmp_path, [7])
    expected = checkpoint.to_arrays(create(7, 7))
    state, facts = checkpoint.restore(tmp_path, abstract)
    assert_equal(checkpoint.to_arrays(state), expected)
    assert facts.dataset == "mnist_sample"
    assert facts.sha256.keys() == expected.keys()
    # The key still draws the same numbers.
    assert jax.random.uniform(state.key[0]) == jax.random.uniform(create(seed=7).key[0])


def test_nothing_saved_is_not_an_error(tmp_path):
    assert checkpoint.restore(tmp_path / "none", abstract) is None


def test_the_latest_and_the_best_are_kept(tmp_path):
    save(tmp_path, [1, 2, 3, 4, 5], [0.1, 0.9, 0.3, 0.2, 0.4], keep=2)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 4, 5]
    assert restored(tmp_path, "best")["step"] == 2
    assert restored(tmp_path, "4")["step"] == 4
    assert restored(tmp_path)["step"] == 5
    with pytest.raises(RunError, match="has no checkpoint 3; there are 2, 4, 5, last and best"):
        restored(tmp_path, "3")


def data_files(directory):
    return [path for path in directory.rglob("*") if path.is_file() and path.stat().st_size > 0]


def flip(path, random_):
    content = bytearray(path.read_bytes())
    position = random_.randrange(len(content))
    content[position] ^= 1 << random_.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_of_an_array_is_noticed(tmp_path, seed):
    save(tmp_path / "c", [1, 2])
    flip(tmp_path / "c" / "2" / "state" / "arrays.safetensors", random.Random(seed))
    with pytest.warns(UserWarning, match="2 is damaged"):
        assert restored(tmp_path / "c")["step"] == 1


def test_the_one_before_a_damaged_checkpoint_is_used_and_said(tmp_path):
    save(tmp_path / "c", [1, 2])
    largest = max(data_files(tmp_path / "c" / "2"), key=lambda path: path.stat().st_size)
    flip(largest, random.Random(0))
    with pytest.warns(UserWarning, match="2 is damaged: .*; trying the one before it"):
        assert restored(tmp_path / "c")["step"] == 1
    assert checkpoint.set_aside_newer(tmp_path / "c", 1) == [tmp_path / "damaged" / "2"]
    assert restored(tmp_path / "c")["step"] == 1


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete", "swap", "metadata", "link"])
def test_damage_of_every_kind_is_noticed(tmp_path, damage):
    save(tmp_path / "c", [1, 2])
    newest = tmp_path / "c" / "2"
    largest = max(data_files(newest), key=lambda path: path.stat().st_size)
    if damage == "truncate":
        os.truncate(largest, largest.stat().st_size // 2)
    elif damage == "empty":
        os.truncate(largest, 0)
    elif damage == "delete":
        largest.unlink()
    elif damage == "swap":
        shutil.rmtree(newest / "state")
        shutil.copytree(tmp_path / "c" / "1" / "state", newest / "state")
    elif damage == "metadata":
        content = largest.read_bytes()
        largest.write_bytes(content.replace(rb"\"steps\": 10", rb"\"steps\": 11"))
    else:
        moved = largest.rename(tmp_path / "outside")
        largest.symlink_to(moved)
    with pytest.warns(UserWarning, match="2 is damaged"):
        assert restored(tmp_path / "c")["step"] == 1


def test_when_none_is_intact_it_says_so(tmp_path):
    save(tmp_path, [1])
    largest = max(data_files(tmp_path), key=lambda path: path.stat().st_size)
    os.truncate(largest, 10)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(RunError, match="no intact checkpoint is left"),
    ):
        restored(tmp_path)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    state = create()
    broken = {
        name: layer._replace(bias=layer.bias * jnp.nan) for name, layer in state.params.items()
    }
    writer = CheckpointWriter(tmp_path, 2)
    with pytest.raises(DivergedError, match=r"params\..*\.bias is not finite"):
        writer.save(state._replace(params=broken), FACTS)
    writer.close()
    assert checkpoint.restore(tmp_path, abstract) is None


def test_a_digest_sees_value_shape_and_type():
    arrays = [
        np.zeros((2, 3), np.float32),
        np.zeros((3, 2), np.float32),
        np.zeros((2, 3), np.int32),
    ]
    arrays.append(np.array([[0, 0, 0], [0, 0, -0.0]], np.float32))
    assert len({checkpoint.digest(array) for array in arrays}) == 4
