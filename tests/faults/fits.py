"""Bad fits and priors."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings
from bids_gmvae.estimators import Fit, Measurements, get_estimator, saved_prior
from bids_gmvae.estimators.gmvae import GMVAEFit
from bids_gmvae.estimators.problem import Problem
from bids_gmvae.estimators.recognition import get_recognition
from bids_gmvae.estimators.saved_fit import SavedFit
from bids_gmvae.estimators.saved_prior import prior_content
from bids_gmvae.exceptions import ExitCode
from bids_gmvae.priors import GaussianMixturePrior
from bids_gmvae.signal_models import get_signal_model
from tests.faults.bench import Case, Place
from tests.faults.calls import option
from tests.tiny import BVALS


def saved_fit(place: Place, **changes: object) -> list[object]:
    """Copy the fit of the good run with another header."""
    saved = SavedFit.read(fit_of(place))
    path = place.root / "fit.pt"
    replace(saved, header={**saved.header, **changes}).write(path)
    return ["--reuse-fit", path]


def mixture() -> GaussianMixturePrior:
    """Give a prior of two tissues for a model of two parameters."""
    width = torch.full((2,), 3.0, dtype=torch.float64)
    means = torch.tensor([[0.123456789, 0.0], [0.0, 1.0]], dtype=torch.float64)
    return GaussianMixturePrior.around(means, spread=0.3, lower=-width, upper=width)


def fit_to(
    scheme: Callable[[Acquisition], Acquisition], **chosen: object
) -> Callable[[Place], list]:
    """Give what fits signals of another scheme, by a network or under a prior."""

    def spoil(place: Place) -> list[object]:
        model, settings = get_signal_model("msdki"), ModelSettings(n_epochs=1, **chosen)  # type: ignore[arg-type]
        acquisition = scheme(Acquisition(bvals=torch.from_numpy(BVALS)))
        generator = torch.Generator().manual_seed(0)
        tissue = model.to_physical(0.5 * torch.randn(40, 2, generator=generator).double())
        sigma = torch.full((40,), 30.0, dtype=torch.float64)
        run = Measurements(1000 * model(tissue, acquisition), sigma, acquisition)
        if settings.estimator == "gmvae":
            recognition = get_recognition(settings.recognition)
            recognition.train([Problem.of(run, model, settings)], generator)
            fit: Fit = GMVAEFit(
                model, settings, acquisitions=(acquisition,), prior=mixture(),
                recognition=recognition,
            )  # fmt: skip
        else:
            fit = get_estimator(settings.estimator)(model, settings).fit(run)
        fit.save(place.root / "fit.pt")
        return ["--reuse-fit", place.root / "fit.pt"]

    return spoil


def stronger(acquisition: Acquisition) -> Acquisition:
    return Acquisition(bvals=1.5 * acquisition.bvals)


def reversed_order(acquisition: Acquisition) -> Acquisition:
    return Acquisition(bvals=acquisition.bvals.flip(0))


def changed_tensor(place: Place) -> list[object]:
    """Change one bit of a learnt number within the archive, which torch reads all the same."""
    fit_to(lambda same: same)(place)
    path = place.root / "fit.pt"
    number = SavedFit.read(path).state["means"][0, 0].numpy().tobytes()
    content = path.read_bytes()
    assert content.count(number) == 1
    other = bytes([*number[:-2], number[-2] ^ 1, number[-1]])
    path.write_bytes(content.replace(number, other))
    return ["--reuse-fit", path]


def other_latents(place: Place) -> list[object]:
    latents = [dict(item) for item in SavedFit.read(fit_of(place)).header["latents"]]
    latents[0]["Upper"] *= 2
    return saved_fit(place, latents=latents, version="9.9.9")


def fit_of(place: Place) -> Path:
    return next((place.root.parent / "clean/out/sub-01/dwi").glob("*_fit.pt"))


class Malicious:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of a fit was run')",)


def pickled_fit(place: Place) -> list[object]:
    path = place.root / "fit.pt"
    path.write_bytes(pickle.dumps({"header": Malicious(), "state": {}}))
    return ["--reuse-fit", path]


def fit_with_code(place: Place) -> list[object]:
    path = place.root / "fit.pt"
    torch.save({"header": Malicious(), "state": {}}, path)
    return ["--reuse-fit", path]


def cut_fit(place: Place) -> list[object]:
    path = place.root / "fit.pt"
    path.write_bytes(fit_of(place).read_bytes()[:-200])
    return ["--reuse-fit", path]


def fit_that_escapes(place: Place) -> list[object]:
    """Add to the archive of a real fit what would be files elsewhere if it were unpacked."""
    path = place.root / "fit.pt"
    shutil.copy(fit_of(place), path)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../../escaped.txt", f"{place.root.parent}/escaped absolutely.txt"):
            archive.writestr(name, "out of the folder")
    return ["--reuse-fit", path]


def prior_that(change: Callable[[dict], object], *, seal: bool = True) -> Callable[[Place], list]:
    """Give what changes the file of a prior; ``seal`` makes its checksum right again."""

    def spoil(place: Place) -> list[object]:
        content = prior_content(mixture(), get_signal_model("msdki"))
        change(content)
        if seal:
            del content["Checksum"]
            content["Checksum"] = saved_prior._checksum(content)
        return given_prior(json.dumps(content))(place)

    return spoil


def given_prior(content: str) -> Callable[[Place], list[object]]:
    """Give a file to ``--prior-from``."""
    return lambda place: [
        "--estimator", "gmvae", "--prior-from", place.file("prior.json", content)
    ]  # fmt: skip


CASES = [
    Case("a fit that is text", "fit.pt is not a fit", option("--reuse-fit", "fit.pt", "weights")),
    Case("a fit that is cut off", "fit.pt is not a fit", cut_fit),
    Case("a fit with code, pickled", "fit.pt is not a fit", pickled_fit),
    Case("a fit with code, archived", "fit.pt is not a fit", fit_with_code),
    Case("a fit whose archive climbs", "fit.pt is not a fit", fit_that_escapes),
    Case("a fit of another format", "fit.pt has fit format 99", lambda p: saved_fit(p, format=99)),
    Case(
        "a fit of another version, with other bounds",
        "fit.pt, which version 9.9.9 .* cannot .* msdki has other parameters",
        other_latents,
    ),
    Case("a fit with a changed number", "fit.pt was changed after", changed_tensor),
    Case(
        "a network's fit of other b-values",
        "fit.pt cannot .* 8 x 1500, 8 x 3000 .* 8 x 1000, 8 x 2000",
        fit_to(stronger, estimator="mlp"),
    ),
    Case(
        "a network's fit of another order",
        "fit.pt cannot be applied to .*another order",
        fit_to(reversed_order, estimator="mlp"),
    ),
    Case(
        "a recognition network of other b-values",
        "fit.pt cannot .* 8 x 1500, 8 x 3000 .* 8 x 1000, 8 x 2000",
        fit_to(stronger, recognition="network"),
    ),
    Case(
        "a prior's fit of other b-values",
        "fit.pt was learnt with .* 8 x 1500, 8 x 3000 .* 8 x 1000, 8 x 2000",
        fit_to(stronger),
        code=ExitCode.OK,
    ),
    Case(
        "a fit of an unknown estimator",
        "fit.pt, .* cannot be used by .*oracle",
        lambda p: saved_fit(p, estimator="oracle"),
    ),
    Case(
        "a fit of an unknown model",
        "fit.pt, .* cannot be used by .*tensor",
        lambda p: saved_fit(p, signal_model="tensor"),
    ),
    Case(
        "a fit with unknown settings",
        "fit.pt, .* cannot be used by .*signal_model",
        lambda p: saved_fit(p, settings={"colour": "red"}),
    ),
    Case(
        "a fit of another estimator's tensors",
        "fit.pt, .* cannot be used by .*weights",
        lambda p: saved_fit(p, estimator="gmvae"),
    ),
    Case(
        "a fit of another model",
        "fit.pt is for the signal model msdki",
        lambda p: [*saved_fit(p), "--signal-model", "ball_stick"],
    ),
    Case("a prior that is text", "prior.json is no prior: it is not JSON", given_prior("prior")),
    Case("a prior nested without end", "prior.json is no prior", given_prior("[" * 10**5)),
    Case(
        "a prior with a changed number",
        "prior.json cannot be used. It was changed",
        prior_that(lambda prior: prior["Prior"]["means"][0].reverse(), seal=False),
    ),
    Case(
        "a prior of another format",
        "prior.json cannot be used. It has the format 99",
        prior_that(lambda prior: prior.update(Format=99)),
    ),
    Case(
        "a prior whose parameters have another unit",
        "prior.json cannot be used. Its signal model msdki is not defined as in this version",
        prior_that(lambda prior: prior["Latents"][0].update(Unit="um^2/ms")),
    ),
    Case(
        "a prior of an unknown model",
        "prior.json cannot be used. Its signal model ../../tensor is not defined",
        prior_that(lambda prior: prior.update(SignalModel="../../tensor")),
    ),
    Case(
        "a prior with nan",
        "prior.json cannot be used. .* no mixture of normals",
        prior_that(lambda prior: prior["Prior"]["weights"].__setitem__(0, float("nan"))),
    ),
    Case(
        "a prior of another signal model",
        "prior.json is for the signal model msdki",
        lambda p: [*prior_that(len)(p), "--signal-model", "ball_stick"],
    ),
]
