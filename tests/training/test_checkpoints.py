"""Checkpoints: what was saved comes back to the bit, damage is seen, another model is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from lglsq_jax.errors import UserError
from lglsq_jax.training import Checkpoints
from lglsq_jax.training.checkpoints import named_leaves, whole_hash

STATE = {"layer/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.int32(3)}


def like(state):
    return {name: np.zeros_like(leaf) for name, leaf in state.items()}


@pytest.fixture
def checkpoints(tmp_path):
    warnings = []
    opened = Checkpoints(tmp_path / "float", warnings.append)
    opened.warnings = warnings
    yield opened
    opened.close()


def later(step: int):
    return {**STATE, "step": np.int32(step)}


def damage(folder, step: int) -> None:
    """Flips one bit in every file that holds arrays of a checkpoint that is on disk."""
    files = [file for file in (folder / str(step) / "state").rglob("d/*") if file.is_file()]
    assert files
    for file in files:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


def test_nothing_saved_is_nothing_restored(checkpoints):
    assert checkpoints.steps == [] and checkpoints.restore(like(STATE)) is None


def test_state_and_facts_come_back(checkpoints):
    checkpoints.save(3, STATE, {"data": "abc"})
    step, state, facts = checkpoints.restore(like(STATE))
    assert step == 3 and facts == {"data": "abc"}
    for name, leaf in STATE.items():
        assert state[name].dtype == np.asarray(leaf).dtype
        np.testing.assert_array_equal(state[name], leaf)


def test_two_are_kept(checkpoints):
    for step in (1, 2, 3):
        checkpoints.save(step, later(step), {})
    assert checkpoints.steps == [3, 2]


# orbax's threads end with an error of their own when a file is damaged
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_is_seen_and_the_checkpoint_before_it_is_taken(checkpoints):
    checkpoints.save(1, later(1), {})
    checkpoints.save(2, later(2), {})
    checkpoints.wait()
    damage(checkpoints.folder, 2)
    step, state, _ = checkpoints.restore(like(STATE))
    assert step == 1 and state["step"] == 1
    assert len(checkpoints.warnings) == 1 and "step 2" in checkpoints.warnings[0]
    checkpoints.save(2, later(2), {})  # the damaged one is out of the way
    assert checkpoints.restore(like(STATE))[0] == 2


# orbax's threads end with an error of their own when a file is damaged
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_when_all_are_damaged_nothing_is_made_up(checkpoints):
    checkpoints.save(1, later(1), {})
    checkpoints.wait()
    damage(checkpoints.folder, 1)
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        checkpoints.restore(like(STATE))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"layer/kernel": np.zeros((2, 4), np.float32), "step": np.int32(0)}, r"layer.kernel must be float32 \[2, 4\]"),
        ({"layer/kernel": np.zeros((2, 3), np.float16), "step": np.int32(0)}, "must be float16"),
        ({"step": np.int32(0)}, "it has layer.kernel"),
        ({**like(STATE), "bias": np.zeros(2)}, "it lacks bias"),
    ],
)
def test_another_model_is_refused(checkpoints, other, message):
    checkpoints.save(1, STATE, {})
    with pytest.raises(UserError, match=message):
        checkpoints.restore(other)


def test_an_unfinished_save_does_not_count(checkpoints):
    checkpoints.save(1, STATE, {})
    checkpoints.close()
    (checkpoints.folder / "2").mkdir()
    assert checkpoints.restore(like(STATE))[0] == 1
    assert checkpoints.warnings == [
        f"the checkpoint of step 2 in {checkpoints.folder} was not written to its end; it does not count"
    ]
    checkpoints.save(2, later(2), {})
    assert checkpoints.restore(like(STATE))[0] == 2


def test_a_step_is_saved_once(checkpoints):
    checkpoints.save(1, later(1), {})
    with pytest.raises(UserError, match=r"step 1 .* there is one already"):
        checkpoints.save(1, later(2), {})
    assert checkpoints.restore(like(STATE))[1]["step"] == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int4, np.bool_, np.uint8])
def test_every_dtype_comes_back(checkpoints, dtype):
    checkpoints.save(1, {"x": jnp.arange(6).astype(dtype)}, {})
    _, state, _ = checkpoints.restore({"x": np.zeros(6, dtype)})
    np.testing.assert_array_equal(state["x"], np.arange(6).astype(dtype))
    assert state["x"].dtype == dtype


def test_the_hash_sees_every_leaf():
    leaves = named_leaves(STATE)
    changed = {**leaves, "layer.kernel": leaves["layer.kernel"] + np.float32(1e-6)}
    assert whole_hash(leaves) != whole_hash(changed)
    assert whole_hash(dict(reversed(leaves.items()))) == whole_hash(leaves)
