import numpy as np
import pytest

from bids_gmvae.report import charts, style


@pytest.fixture(autouse=True)
def _drawing():
    with style.drawing():
        yield


def texts(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def test_an_ellipse_is_one_sd_of_the_voxels_of_its_component():
    rng = np.random.default_rng(0)
    covariance = np.array([[0.04, 0.03], [0.03, 0.09]])
    points = rng.multivariate_normal((1, 1), covariance, 20000)
    axes = [charts.Axis(name, points[:, index], (0, 2)) for index, name in enumerate("ab")]
    figure = charts.parameter_space(axes, np.zeros(len(points), int), [0])
    (ellipse,) = figure.axes[0].patches
    turned = np.radians(ellipse.angle)
    turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    found = turn @ np.diag([(ellipse.width / 2) ** 2, (ellipse.height / 2) ** 2]) @ turn.T
    assert found == pytest.approx(covariance, rel=0.05)


def test_opposite_directions_fall_on_one_place():
    vector = np.array([0.6, 0.0, 0.8])
    figure = charts.gradient_spheres([("b = 1000", np.stack([vector, -vector] * 3))])
    offsets = np.concatenate([item.get_offsets() for item in figure.axes[0].collections])
    assert np.ptp(np.asarray(offsets), axis=0) == pytest.approx(0)


def test_shells_with_few_directions_share_a_disc():
    shells = [(f"b = {b}", np.eye(3)) for b in (10, 20, 40)]
    assert len(charts.gradient_spheres(shells).axes) == 1


def test_boxes_hold_the_middle_half():
    residuals = np.linspace(0, 2, 101)[:, None]
    axes = charts.shell_residuals(["b = 0"], residuals, [1.0]).axes[0]
    # The first patch is the band around 1.
    box = axes.patches[1].get_path().vertices[:, 1]
    assert (box.min(), box.max()) == pytest.approx((0.5, 1.5))


def test_the_furthest_participants_are_named():
    entries = [(f"sub-{index}", 1 + 0.01 * index) for index in range(10)]
    figure = charts.cohort_strip({"all": [*entries, ("sub-far", 5.0)]}, label="D")
    assert texts(figure) == {"sub-far"}


def test_drawing_leaves_no_settings_behind():
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 33}):
        with style.drawing():
            assert mpl.rcParams["font.size"] == 9
        assert mpl.rcParams["font.size"] == 33
