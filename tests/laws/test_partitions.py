"""Merging what was split gives what there was, whatever the tree and the choice."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.core._model import leaf_at, leaves_of, with_leaves
from fedrecon.core._partition import merge, split

NAMES = st.sampled_from(["body", "head", "layers", "0", "a/b"])
TREES = st.recursive(
    st.integers(0, 99).map(np.float32),
    lambda inner: (
        st.dictionaries(NAMES, inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(TREES, st.randoms(use_true_random=False))
def test_merge_after_split_is_the_identity(tree, random):
    chosen = {path: random.random() < 0.5 for path in leaves_of(tree)}
    global_params, local_params = split(tree, chosen.__getitem__)
    assert merge(global_params, local_params) == tree
    kept = len(jax.tree.leaves(global_params)) + len(jax.tree.leaves(local_params))
    assert kept == len(jax.tree.leaves(tree))


@settings(max_examples=100)
@given(TREES)
def test_leaves_are_found_under_their_own_paths(tree):
    leaves = leaves_of(tree)
    if len(leaves) < len(jax.tree.leaves(tree)):
        return  # names with a slash made two paths equal
    assert with_leaves(tree, leaves) == tree
    assert all(leaf_at(tree, path) is leaf for path, leaf in leaves.items())
    assert leaves_of(with_leaves(tree, dict.fromkeys(leaves, 7))) == dict.fromkeys(leaves, 7)
