"""What holds for the latent of every parameter of every signal model."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_gmvae.signal_models import SIGNAL_MODELS
from tests.properties.strategies import SAME

PARAMETERS = [
    pytest.param(parameter, id=f"{model}-{parameter.name}")
    for model, kind in SIGNAL_MODELS.items()
    for parameter in kind.parameters
]
#: Far enough to reach the walls, near enough for double precision to tell values apart.
LATENTS = st.floats(-6, 6)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("parameter", PARAMETERS)
@SAME
@given(z=LATENTS)
def test_any_latent_is_a_value_within_the_bounds(parameter, z):
    value = float(parameter.to_physical(double(z)))
    rounding = 1e-14 * parameter.upper
    assert parameter.lower - rounding <= value <= parameter.upper + rounding


@pytest.mark.parametrize("parameter", PARAMETERS)
@SAME
@given(share=st.floats(0.002, 0.998))
def test_a_value_comes_back_from_its_latent(parameter, share):
    value = parameter.lower + share * (parameter.upper - parameter.lower)
    back = float(parameter.to_physical(parameter.to_real(double(value))))
    assert math.isclose(back, value, rel_tol=1e-9, abs_tol=1e-12 * parameter.upper)


@pytest.mark.parametrize("parameter", PARAMETERS)
@SAME
@given(first=LATENTS, second=LATENTS)
def test_the_order_of_values_is_that_of_their_latents(parameter, first, second):
    low, high = sorted((first, second))
    values = parameter.to_physical(double([low, high]))
    assert values[0] <= values[1]


@pytest.mark.parametrize("parameter", PARAMETERS)
@SAME
@given(z=LATENTS)
def test_the_log_determinant_is_that_of_a_growing_function(parameter, z):
    """The derivative is positive, and agrees with a difference of values around it."""
    latent = double(z).requires_grad_()
    (slope,) = torch.autograd.grad(parameter.to_physical(latent), latent)
    assert slope > 0
    step = 1e-5
    above, below = parameter.to_physical(double([z + step, z - step]))
    difference = float(above - below) / (2 * step)
    # What is left of the difference of two values is rounded.
    rounding = 4e-16 * parameter.upper / step
    assert math.isclose(float(slope), difference, rel_tol=1e-4, abs_tol=4 * rounding)


@pytest.mark.parametrize("parameter", PARAMETERS)
@SAME
@given(share=st.floats(0.01, 0.99))
def test_the_slopes_of_both_ways_are_inverse(parameter, share):
    value = double(parameter.lower + share * (parameter.upper - parameter.lower)).requires_grad_()
    latent = parameter.to_real(value)
    (there,) = torch.autograd.grad(latent, value)
    again = latent.detach().requires_grad_()
    (back,) = torch.autograd.grad(parameter.to_physical(again), again)
    assert math.isclose(float(there * back), 1, rel_tol=1e-6)
