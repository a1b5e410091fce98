"""What every registered signal model must fulfil."""

import inspect
import pkgutil
import re

import pytest
import torch

import bids_gmvae.signal_models
from bids_gmvae.acquisition import Acquisition
from bids_gmvae.exceptions import AcquisitionError
from bids_gmvae.signal_models import SIGNAL_MODELS, get_signal_model
from bids_gmvae.signal_models.base import REQUIRED

BIDS_LABEL = re.compile(r"[a-zA-Z0-9]+")
UNITS = {"", "mm^2/s", "s"}


def directions(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return vectors / vectors.norm(dim=1, keepdim=True)


@pytest.fixture(params=SIGNAL_MODELS)
def model(request):
    return get_signal_model(request.param)


@pytest.fixture
def acquisition():
    """Everything that any model needs: shells, low b-values, directions, two echo times."""
    bvals = [0.0, 0, 10, 50, 100, 200, *[1000] * 12, *[2000] * 12, *[3000] * 12]
    bvals = torch.tensor(bvals, dtype=torch.float64)
    bvecs = directions(len(bvals))
    bvecs[bvals == 0] = 0
    echo_times = torch.full_like(bvals, 0.06)
    echo_times[1::2] = 0.09
    return Acquisition(bvals=bvals, bvecs=bvecs, echo_times=echo_times)


def some_values(model, n=200, spread=1.5):
    generator = torch.Generator().manual_seed(1)
    z = spread * torch.randn(n, len(model.parameters), generator=generator, dtype=torch.float64)
    return model.to_physical(z)


def box_values(model, n=2000):
    """Draw uniformly within the bounds, and add all corners."""
    lower = torch.tensor([p.lower for p in model.parameters], dtype=torch.float64)
    upper = torch.tensor([p.upper for p in model.parameters], dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    inside = torch.rand(n, len(lower), generator=generator, dtype=torch.float64)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * len(lower))
    return lower + (upper - lower) * torch.cat([inside, corners.reshape(-1, len(lower))])


def call(model, values, acquisition):
    """Apply a model with one orientation per row, if it needs any."""
    orientation = directions(len(values), seed=3).to(values) if model.directional else None
    return model(values, acquisition, orientation)


def test_every_module_of_the_folder_is_registered():
    modules = {name for _, name, _ in pkgutil.iter_modules(bids_gmvae.signal_models.__path__)}
    registered = {model.__module__.rsplit(".", 1)[-1] for model in SIGNAL_MODELS.values()}
    assert modules - {"base", "compiled"} == registered


def test_a_model_is_registered_under_its_own_name(model):
    assert SIGNAL_MODELS[model.name] is type(model)


def test_labels_of_models_are_legal_in_bids_and_unique():
    labels = [model.label for model in SIGNAL_MODELS.values()]
    assert all(BIDS_LABEL.fullmatch(label) for label in labels)
    assert len(set(labels)) == len(labels)


def test_file_names_of_parameters_are_legal_in_bids_and_unique(model):
    derived = model.derived(some_values(model, n=2))
    names = [dict(parameter.bids) for parameter in (*model.parameters, *derived)]
    assert all(set(name) in ({"param"}, {"suffix"}) for name in names)
    assert all(BIDS_LABEL.fullmatch(label) for name in names for label in name.values())
    assert len({str(name) for name in names}) == len(names)


def test_arguments_of_the_equation_are_the_parameters(model):
    arguments = inspect.signature(model.signal).parameters
    positional = [n for n, a in arguments.items() if a.kind is a.POSITIONAL_OR_KEYWORD]
    keyword = [n for n, a in arguments.items() if a.kind is a.KEYWORD_ONLY]
    assert positional == ["acquisition", *(parameter.name for parameter in model.parameters)]
    assert keyword == (["orientation"] if model.directional else [])


def test_a_model_describes_itself_and_cites_its_paper(model):
    assert model.description
    assert model.reference.startswith("https://doi.org/10.")
    assert ".. math::" in type(model).__doc__


def test_parameters_are_described_with_unit_bounds_and_display_range(model):
    for parameter in (*model.parameters, *model.derived(some_values(model, n=2))):
        assert parameter.name.isidentifier()
        assert parameter.description
        assert parameter.unit in UNITS
        assert parameter.lower < parameter.center < parameter.upper
        assert parameter.figure[0] < parameter.figure[1]
        assert parameter.spread > 0


def test_the_centre_is_the_latent_origin(model):
    centre = torch.tensor([[p.center for p in model.parameters]], dtype=torch.float64)
    origin = model.to_physical(torch.zeros(1, len(model.parameters), dtype=torch.float64))
    torch.testing.assert_close(origin, centre, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 10.0, 1000.0])
def test_physical_values_never_lie_beyond_the_bounds(model, dtype, size):
    generator = torch.Generator().manual_seed(4)
    z = size * torch.randn(500, len(model.parameters), generator=generator, dtype=dtype)
    for parameter, values in zip(model.parameters, model.to_physical(z).unbind(-1), strict=True):
        # exp() of a rounded logarithm is a few units off in the last place.
        rounding = 16 * torch.finfo(dtype).eps * max(abs(parameter.lower), parameter.upper)
        assert values.min() >= parameter.lower - rounding
        assert values.max() <= parameter.upper + rounding


def test_latents_and_physical_values_map_onto_each_other(model):
    z = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None]
    z = z.expand(-1, len(model.parameters))
    values = model.to_physical(z)
    again = model.to_physical(model.to_real(values))
    torch.testing.assert_close(again, values, rtol=1e-9, atol=1e-12)
    assert (values.diff(dim=0) > 0).all()
    # Where the walls are far, the latent itself comes back.
    inner = z.abs().amax(dim=1) < 1
    torch.testing.assert_close(model.to_real(values)[inner], z[inner], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_at_a_bound_have_a_finite_latent(model, dtype):
    generator = torch.Generator().manual_seed(6)
    z = 1000 * torch.randn(100, len(model.parameters), generator=generator, dtype=dtype)
    assert model.to_real(model.to_physical(z)).isfinite().all()


def test_a_batch_gives_the_same_as_its_rows(model, acquisition):
    values = some_values(model, n=6).reshape(2, 3, -1)
    orientation = directions(6).reshape(2, 3, 3) if model.directional else None
    batched = model(values, acquisition, orientation)
    assert batched.shape == (2, 3, len(acquisition))
    row = None if orientation is None else orientation[1, 2]
    torch.testing.assert_close(batched[1, 2], model(values[1, 2], acquisition, row))


def test_the_signal_lies_between_0_and_1_on_the_whole_box_of_bounds(model, acquisition):
    signals = call(model, box_values(model), acquisition)
    assert signals.isfinite().all()
    assert signals.min() >= 0
    assert signals.max() <= 1 + 1e-12


def test_the_signal_stays_within_0_and_1_at_extreme_b_values_in_single_precision(model):
    bvals = torch.tensor([0.0, 5.0, 1000.0, 10000.0])
    acquisition = Acquisition(
        bvals=bvals,
        bvecs=directions(4).float(),
        echo_times=torch.tensor([0.05, 0.05, 0.1, 0.3]),
    )
    signals = call(model, box_values(model).float(), acquisition)
    assert signals.isfinite().all()
    assert signals.min() >= 0
    assert signals.max() <= 1 + 1e-5


def test_the_unweighted_signal_is_1(model, acquisition):
    unweighted = model.unweighted(acquisition)
    assert unweighted.any()
    assert not unweighted.all()
    signals = call(model, some_values(model), acquisition)[:, unweighted]
    torch.testing.assert_close(signals, torch.ones_like(signals))


def test_every_parameter_has_a_finite_gradient_and_a_nonzero_one_at_the_centre(model, acquisition):
    z = torch.randn(
        50, len(model.parameters), generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    z = (3 * z).index_fill(0, torch.tensor([0]), 0.0).requires_grad_()
    call(model, model.to_physical(z), acquisition).square().sum().backward()
    assert z.grad.isfinite().all()
    assert (z.grad[0].abs() > 1e-3).all()


def test_a_missing_column_is_named(model, acquisition):
    for missing in model.requires:
        rest = {name: c for name, c in acquisition.columns.items() if name != missing}
        with pytest.raises(AcquisitionError, match=f"needs {REQUIRED[missing]}"):
            model.check(Acquisition(**rest))


def test_a_full_acquisition_is_accepted(model, acquisition):
    model.check(acquisition)


def test_an_acquisition_without_weighting_is_refused(model):
    plain = Acquisition(
        bvals=torch.zeros(4), bvecs=torch.zeros(4, 3), echo_times=torch.full((4,), 0.1)
    )
    with pytest.raises(AcquisitionError):
        model.check(plain)


def test_no_tensor_is_made_on_another_device(model, acquisition):
    # The meta device stands in for a GPU: it refuses to mix with tensors of the CPU.
    acquisition = acquisition.to("meta")
    values = model.to_physical(torch.zeros(2, len(model.parameters), device="meta"))
    orientation = (
        torch.zeros(2, 3, device="meta", dtype=torch.float64) if model.directional else None
    )
    signals = model(values.double(), acquisition, orientation)
    assert signals.device.type == "meta"
    assert model.to_real(values).device.type == "meta"
    assert all(value.device.type == "meta" for value in model.derived(values).values())
    assert model.unweighted(acquisition).device.type == "meta"


def test_derived_quantities_are_finite_on_the_whole_box(model):
    values = box_values(model)
    for quantity in model.derived(values).values():
        assert quantity.shape == values.shape[:1]
        assert quantity.isfinite().all()
