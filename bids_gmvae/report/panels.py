"""Which figures a fitted run gets, and the line that says how to read each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nb
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bids_gmvae.io.qc import UNEXPECTED
from bids_gmvae.io.result import RunResult
from bids_gmvae.posterior import Status
from bids_gmvae.report import charts, facts, mosaics, style
from bids_gmvae.report.facts import array
from bids_gmvae.report.mosaics import Layer
from bids_gmvae.report.slices import View, choose_view
from bids_gmvae.voxels import unmask

#: The display range of sd maps as a share of the parameter's: equal for all subjects.
STD_WINDOW = 0.25

#: Names of the maps of a parameter, in the order of the rows.
LAYERS = {
    "lsq": "Voxelwise fit",
    "mean": "Posterior mean",
    "std": "Posterior sd",
    "priorinfluence": "Prior influence",
}

#: The same where the chosen estimator is the voxelwise fit.
ALONE = {"mean": "Estimate", "std": "Its sd"}

#: Colours and short words of the status map; what is fitted without remark stays calm.
STATUSES = {
    Status.FITTED: ("#56646f", "Fitted"),
    Status.AT_BOUND: ("#edc948", "At a bound"),
    Status.UNIDENTIFIED: ("#76b7b2", "Hardly constrained"),
    Status.NOT_CONVERGED: ("#e15759", "Did not converge"),
    Status.NOT_FINITE: ("#d37295", "Signal not finite"),
    Status.NO_SIGNAL_SUPPORT: ("#f28e2b", "No signal"),
}

#: How to read a scatter plot without and with components.
_COMPONENTS_READ = (
    "Streaks along an edge are voxels at a bound.",
    "Ellipses: where the voxels of each component lie (one sd). Clouds without an ellipse are "
    "tissue that the components miss.",
)

#: Room around the display range in scatter plots, so that clouds at its edges are seen.
EDGE = 0.04


@dataclass(frozen=True, eq=False)
class Panel:
    """A figure of the report.

    Attributes
    ----------
    name : str
        The ``desc-`` of its file.
    section : str
        Where it goes: ``input``, ``training``, ``parameter``, ``tissue``, ``fit``.
    kind : {"png", "svg"}
        PNG for maps, SVG for charts.
    title, how_to_read, alt : str
        Heading; one line for the reader; what it shows, for those who cannot see it.
    figure : Figure
        The figure.
    """

    name: str
    section: str
    kind: Literal["png", "svg"]
    title: str
    how_to_read: str
    alt: str
    figure: Figure

    def to_dict(self) -> dict[str, Any]:
        """Give plain values; the width is in CSS pixels."""
        return {
            "section": self.section,
            "title": self.title,
            "how_to_read": self.how_to_read,
            "alt": self.alt,
            "width": round(100 * float(self.figure.get_size_inches()[0])),
        }


def panels(result: RunResult) -> Iterator[Panel]:
    """Yield the figures of a run in the order of the page; what is not known is left out."""
    view = choose_view(result.mask | result.removed, result.grid.affine)
    yield from _input(result, view)
    yield from _training(result)
    yield from _parameters(result, view)
    yield from _orientation(result, view)
    yield from _tissue(result, view)
    yield from _fit(result, view)


def _input(result: RunResult, view: View) -> Iterator[Panel]:
    directions = _directions(result)
    if directions:
        yield Panel(
            "gradients", "input", "svg", "Gradient directions",
            "Dots should cover each disc evenly; gaps mean directions that were not measured. "
            "Filled: as measured. Open: mirrored through the centre, which diffusion cannot "
            "tell apart. The centre is head–foot, the rim the horizontal plane.",
            "Gradient directions of each shell on an equal-area disc.",
            charts.gradient_spheres(directions),
        )  # fmt: skip
    yield Panel(
        "mask", "input", "png", "Mask",
        "The line should follow the outside of the tissue. What lies outside it is not mapped.",
        "Mask outline over slices of the mean b0 image.",
        mosaics.mask_mosaic(result.reference, result.mask, result.removed, view),
    )  # fmt: skip


def _directions(result: RunResult) -> list[tuple[str, NDArray]]:
    if "bvecs" not in result.acquisition:
        return []
    shells = facts.shells_of(result)
    sizes = nb.affines.voxel_sizes(result.grid.affine)
    world = array(result.acquisition.bvecs) @ (result.grid.affine[:3, :3] / sizes).T
    index = shells.index.cpu().numpy()
    directions = []
    for shell in range(len(shells)):
        vectors = world[index == shell]
        vectors = vectors[np.linalg.norm(vectors, axis=1) > 0.5]
        if not shells.is_b0[shell] and len(vectors):
            label = f"b = {float(shells.acquisition.bvals[shell]):.0f}"
            if "echo_times" in shells.acquisition:
                label += f", TE {1e3 * float(shells.acquisition.echo_times[shell]):.0f} ms"
            directions.append((label, vectors))
    return directions


def _training(result: RunResult) -> Iterator[Panel]:
    values = facts.numbers(result)
    history = list(result.info.get("fit", {}).get("history", ()))
    shares = values["shares"] or []
    own = "objective" in result.info.get("fit", {}).get("summary", {})
    objective = "Objective" if own else "Evidence lower bound (ELBO), nats per voxel"
    if len(history) < 2 and not shares:
        return
    yield Panel(
        "training", "training", "svg", "Training",
        "The curve should rise and level off; jumps are rounds in which every voxel is "
        "fitted anew under what was learnt. The bars are the tissue classes that were learnt "
        f"from {facts.learnt_from(result)}; those below the dashed line (1%) are not in use, "
        "which is harmless.",
        "What the training raised, by step, and the share of each tissue component.",
        charts.training(history, shares, values["unexpected_share"], objective=objective),
    )  # fmt: skip


def _parameters(result: RunResult, view: View) -> Iterator[Panel]:
    for parameter, maps in facts.all_parameters(result):
        factor, unit = style.display_unit(parameter.unit)
        low, high = (factor * limit for limit in parameter.figure)
        windows = {"std": (0.0, STD_WINDOW * (high - low)), "priorinfluence": (0.0, 1.0)}
        layers = []
        for statistic, label in LAYERS.items():
            if statistic not in maps:
                continue
            plain = statistic == "priorinfluence"
            values = array(maps[statistic]) * (1.0 if plain else factor)
            layers.append(
                Layer(
                    ALONE.get(statistic, label) if result.lsq is None else label,
                    unmask(values, result.mask),
                    windows.get(statistic, (low, high)),
                    style.COLOUR_MAPS[statistic],
                    "" if plain else unit,
                )
            )
        title = parameter.description.split(",")[0]
        yield Panel(
            f"{_file_label(parameter)}maps", "parameter", "png", title,
            _how_to_read_parameter(maps), f"Maps of {title.lower()} on several slices.",
            mosaics.mosaic(layers, view, result.mask),
        )  # fmt: skip


def _how_to_read_parameter(maps: dict[str, Any]) -> str:
    text = "If the model holds, two thirds of the true values lie within one sd."
    if "lsq" in maps:
        text = (
            "Structure in the posterior mean should be recognisable in the voxelwise fit, only "
            f"with more noise. {text}"
        )
    if "priorinfluence" in maps:
        text += " Where prior influence is bright, the value comes from similar tissue elsewhere."
    return text


def _file_label(parameter: Any) -> str:
    label = parameter.bids.get("param", parameter.bids.get("suffix", parameter.name))
    return "".join(character for character in label.lower() if character.isalnum())


def _orientation(result: RunResult, view: View) -> Iterator[Panel]:
    orientation = result.posterior.orientation
    if orientation is None:
        return
    sizes = nb.affines.voxel_sizes(result.grid.affine)
    world = array(orientation) @ (result.grid.affine[:3, :3] / sizes).T
    weight = np.ones(len(world))
    for index, parameter in enumerate(result.posterior.signal_model.parameters):
        if parameter.bids.get("param") == "vf":
            weight = np.clip(array(result.posterior.mean[:, index]) / 0.7, 0, 1)
    colours = np.nan_to_num(np.clip(np.abs(world), 0, 1) * weight[:, None])
    volume = unmask(colours, result.mask)
    volume[~result.mask] = to_rgb(style.BACKDROP)
    yield Panel(
        "orientation", "parameter", "png", "Fibre orientation",
        "Red: left–right, green: front–back, blue: head–foot; dark where there is little fibre. "
        "In a brain the corpus callosum must be red and the corticospinal tract blue: other "
        "colours mean wrong gradient directions.",
        "Colour-coded fibre orientation on several slices.",
        mosaics.colour_mosaic(volume, view, label="Fibre orientation"),
    )  # fmt: skip


def _tissue(result: RunResult, view: View) -> Iterator[Panel]:
    posterior = result.posterior
    if posterior.unexpected is not None:
        layer = Layer(
            "Unexpected tissue", unmask(array(posterior.unexpected), result.mask), (0.0, 1.0),
            style.COLOUR_MAPS["unexpected"], "probability",
        )  # fmt: skip
        yield Panel(
            "unexpected", "tissue", "png", "Unexpected tissue",
            f"Bright voxels are unlike the tissue learnt from {facts.learnt_from(result)}: "
            "lesions, vessels, artefacts or partial volume. Dark does not prove health: with "
            "little signal, an abnormal voxel can pass for a normal one.",
            "Probability of unexpected tissue on several slices.",
            mosaics.mosaic([layer], view, result.mask),
        )  # fmt: skip
    found = facts.mixture(result)
    if found is not None:
        yield _components(result, found, view)
    if len(posterior.signal_model.parameters) > 1:
        figure = (
            charts.parameter_space(_axes(result))
            if found is None
            else charts.parameter_space(_axes(result), found.winner, found.active)
        )
        yield Panel(
            "scatter", "tissue", "svg", "Parameter space",
            "Grey: how many voxels have these values. " + _COMPONENTS_READ[found is not None],
            "Histogram of voxels over pairs of parameters.", figure,
        )  # fmt: skip


def _components(result: RunResult, found: facts.Mixture, view: View) -> Panel:
    codes = found.winner + 1
    categories = [
        (k + 1, style.colour(k), f"C{k + 1}, {found.shares[k]:.0%}") for k in found.active
    ]
    if result.posterior.unexpected is not None:
        code = len(found.shares) + 1
        codes[array(result.posterior.unexpected) > UNEXPECTED] = code
        categories.append((code, "#ffffff", "Unexpected"))
    return Panel(
        "components", "tissue", "png", "Tissue components",
        "Each voxel has the colour of its most probable component. They should follow anatomy; "
        "which number is which tissue is arbitrary and differs between scans.",
        "Most probable tissue component on several slices.",
        mosaics.category_mosaic(
            unmask(codes, result.mask, fill=0), categories, view, label="Most probable component"
        ),
    )  # fmt: skip


def _axes(result: RunResult) -> list[charts.Axis]:
    axes = []
    for index, parameter in enumerate(result.posterior.signal_model.parameters):
        factor, unit = style.display_unit(parameter.unit)
        low, high = parameter.figure
        edge = EDGE * (high - low)
        axes.append(
            charts.Axis(
                f"{parameter.description}, {unit}" if unit else parameter.description,
                array(result.posterior.mean[:, index]) * factor,
                ((low - edge) * factor, (high + edge) * factor),
            )
        )
    return axes


def _fit(result: RunResult, view: View) -> Iterator[Panel]:
    posterior = result.posterior
    sigma = facts.finite(result.sigma)
    high = float(np.percentile(sigma, 99)) * 1.1 if sigma.size else 1.0
    layers = [
        Layer(
            "Residual over noise", unmask(array(posterior.residual), result.mask), (0.0, 2.0),
            style.COLOUR_MAPS["residual"],
        ),
        Layer(
            "Noise sd", unmask(result.sigma.astype(float), result.mask),
            (0.0, float(f"{high:.2g}") or 1.0), style.COLOUR_MAPS["noise"], "image units",
        ),
    ]  # fmt: skip
    yield Panel(
        "residual", "fit", "png", "Residuals and noise",
        "Residual over noise should look like even noise around 1. Anatomy in it is signal that "
        "the model does not describe (crossing fibres, vessels, motion).",
        "Maps of the residual relative to the noise, and of the noise standard deviation.",
        mosaics.mosaic(layers, view, result.mask),
    )  # fmt: skip
    rows = facts.shell_rows(result)
    if posterior.shell_residual.shape[1] == len(rows):
        yield Panel(
            "shells", "fit", "svg", "Residuals by shell",
            "Diamonds: root mean square over all voxels; 1 is what noise alone leaves (band: "
            "within 20%), and a shell far above it is not described by the model. Boxes: middle "
            "half of the voxels, whiskers: 5th to 95th percentile.",
            "Box plots of residuals over noise by shell.",
            charts.shell_residuals(
                [_shell_label(row) for row in rows], array(posterior.shell_residual),
                [row["residual"] for row in rows],
            ),
        )  # fmt: skip
    codes = unmask(posterior.status.cpu().numpy(), result.mask, fill=0)
    codes[result.removed] = Status.NO_SIGNAL_SUPPORT
    categories = [
        (int(code), colour, text)
        for code, (colour, text) in STATUSES.items()
        if code == Status.FITTED or (codes == code).any()
    ]
    yield Panel(
        "status", "fit", "png", "Status",
        "Single coloured voxels at edges and in fluid are usual; patches within tissue are not.",
        "What became of each voxel, on several slices.",
        mosaics.category_mosaic(codes, categories, view, label="Status of each voxel"),
    )  # fmt: skip


def _shell_label(row: dict[str, Any]) -> str:
    text = str(row["b_value"])
    if "echo_time" in row:
        text += f"\nTE {1e3 * row['echo_time']:.0f} ms"
    return f"{text}\n{row['n_volumes']} vol."
