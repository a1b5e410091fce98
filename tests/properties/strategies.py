"""What properties are tried on."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

#: The same examples everywhere, so that a failure can be repeated.
SAME = settings(derandomize=True, database=None, deadline=None, max_examples=60)

SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def directions(draw, *, least=1, most=40):
    """Draw unit vectors (n, 3)."""
    n = draw(st.integers(least, most))
    vectors = np.random.default_rng(draw(SEEDS)).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@st.composite
def affines(draw):
    """Draw affines: voxels of any size, turned anyhow, right- or left-handed."""
    rotation = Rotation.random(random_state=draw(SEEDS)).as_matrix()
    sizes = draw(st.tuples(*[st.floats(0.3, 6)] * 3))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = rotation * sizes * signs
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return affine


@st.composite
def shelled_bvals(draw):
    """Draw b-values of some shells that are 30 % apart, each value within 1 % of its shell."""
    n_shells = draw(st.integers(1, 4))
    lowest = draw(st.floats(300, 800))
    shells = [0.0, *(lowest * 1.3**index * 1.2 for index in range(n_shells))]
    index = draw(st.lists(st.integers(0, n_shells), min_size=1, max_size=60))
    jitter = np.random.default_rng(draw(SEEDS)).uniform(0.995, 1.005, len(index))
    return np.array(shells)[index] * jitter, np.array(index)
