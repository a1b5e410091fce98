"""The methods section, ready to paste, with its references."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from bids_gmvae import __version__
from bids_gmvae.io.atomic import write_text

_ENTRY = re.compile(r"@\w+\{(?P<key>\w+),\n(?P<fields>.*?)\n\}", re.DOTALL)
_FIELD = re.compile(r"^\s*(\w+) = \{(.*?)\},?$", re.MULTILINE)
_CITATION = re.compile(r"\[(@\w+(?:; @\w+)*)\]")

#: What each signal model adds to the text.
MODELS: Mapping[str, str] = {
    "msdki": (
        "Mean signal diffusion kurtosis imaging [@msdki] describes the powder-averaged signal "
        "by its mean diffusivity and kurtosis."
    ),
    "ball_stick": (
        "The ball-and-stick model [@ball_stick] describes each voxel by one fibre population "
        "(stick) and isotropic water (ball), each with its own diffusivity."
    ),
    "ball_stick_tied": (
        "The ball-and-stick model [@ball_stick] describes each voxel by one fibre population "
        "(stick) and isotropic water (ball); with a single shell both share one diffusivity."
    ),
    "ivim": (
        "Intravoxel incoherent motion [@ivim] describes the decay by a perfused and a diffusing "
        "compartment."
    ),
    "t2_adc": (
        "A mono-exponential model of diffusion and transverse relaxation [@gmm_vae] was used."
    ),
    "auto": (
        "The signal model was chosen by what the acquisition supports: several echo times, "
        "several low b-values, two or more shells [@msdki], or one shell [@ball_stick]."
    ),
}

#: What each estimator adds.
ESTIMATORS: Mapping[str, str] = {
    "lsq": (
        "Parameters were estimated voxel by voxel by bounded {likelihood}; standard deviations "
        "are Cramér–Rao bounds."
    ),
    "mlp": (
        "Parameters were estimated by a self-supervised fully connected network trained on the "
        "scan itself [@mlp]."
    ),
    "vae_unig": (
        "Parameters were estimated by a variational autoencoder [@vae] with a standard normal "
        "prior, whose decoder is the signal model [@gmm_vae]."
    ),
    "vae_gmm": (
        "Parameters were estimated by a variational autoencoder [@vae] with Gaussian mixture "
        "latents, whose decoder is the signal model [@gmm_vae]."
    ),
    "gmvae": (
        "Parameters were estimated by a structured variational autoencoder "
        "[@structured_vae; @gmm_vae]: the likelihood of each voxel under the signal "
        "model, with the unweighted signal marginalised, is combined in closed form "
        "with a Gaussian mixture prior of "
        "{n_components} tissue components learnt from {source}, plus one fixed broad "
        "component for tissue unlike the rest. The maps hold posterior means and standard "
        "deviations; prior influence is the share of the posterior information that came from "
        "the prior. Voxelwise maximum-likelihood maps are given for comparison."
    ),
}


@dataclass(frozen=True)
class Reference:
    """An entry of the bibliography."""

    key: str
    fields: Mapping[str, str]
    source: str

    @property
    def label(self) -> str:
        """Author and year, as in a text."""
        authors = self.fields["author"].split(" and ")
        names = [author.split(",")[0] for author in authors]
        who = " & ".join(names)
        if len(names) > 2 or "others" in names:
            who = f"{names[0]} et al."
        return f"{who}, {self.fields['year']}"

    @property
    def text(self) -> str:
        """The line of the reference list, without its address."""
        authors = self.fields["author"].replace(" and others", ", et al.").replace(" and ", ", ")
        place = ":".join(
            part for part in (self.fields.get("volume"), self.fields.get("pages")) if part
        ).replace("--", "–")
        journal = self.fields.get("journal") or self.fields["booktitle"]
        journal = f"{journal} {place}".strip()
        return f"{authors} ({self.fields['year']}). {self.fields['title']}. {journal}."

    @property
    def address(self) -> str:
        """Where its DOI leads."""
        return f"https://doi.org/{self.fields['doi']}"


@cache
def bibliography() -> Mapping[str, Reference]:
    """Read the references that come with the package, by key."""
    source = files("bids_gmvae").joinpath("data", "boilerplate.bib").read_text(encoding="utf-8")
    return {
        match["key"]: Reference(match["key"], dict(_FIELD.findall(match["fields"])), match[0])
        for match in _ENTRY.finditer(source)
    }


def methods_text(
    *,
    models: Iterable[str],
    estimator: str,
    settings: Mapping[str, Any],
    preprocessed: bool = False,
    version: str = __version__,
) -> str:
    """Write the methods section in Markdown with Pandoc citations.

    Parameters
    ----------
    models : iterable of str
        Names of the signal models, or ``"auto"``.
    estimator : str
        Name of the estimator.
    settings : mapping
        Its settings: `ModelSettings` as plain values.
    preprocessed : bool
        Whether the input came from QSIPrep.
    version : str
        Version of this app.

    Examples
    --------
    >>> text = methods_text(models=["ivim"], estimator="mlp", settings={})
    >>> "[@ivim]" in text and "[@mlp]" in text
    True
    """
    rician = settings.get("noise_model", "rician") == "rician"
    likelihood = "maximum likelihood" if rician else "least squares"
    sentences = [
        f"Quantitative maps were computed with *bids_gmvae* {version}, a BIDS App "
        "[@bids; @bids_apps] built on Nipype [@nipype] and PyTorch [@pytorch].",
        "The data had been preprocessed with QSIPrep [@qsiprep]." if preprocessed else "",
        *(MODELS.get(name, f"The signal model was {name}.") for name in dict.fromkeys(models)),
        ESTIMATORS.get(estimator, f"The estimator was {estimator}.").format(
            likelihood=likelihood,
            n_components=settings.get("n_components", "several"),
            source="a group of participants" if settings.get("prior_from") else "the scan itself",
        ),
        _noise(rician, str(settings.get("noise_map", "auto"))),
        "Failed voxels are NaN in all maps.",
        f"The random seed was {settings['random_seed']}." if "random_seed" in settings else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def cited(text: str) -> list[Reference]:
    """Give the references of a text in order of appearance."""
    keys = [key.strip(" @") for group in _CITATION.findall(text) for key in group.split(";")]
    return [bibliography()[key] for key in dict.fromkeys(keys)]


def methods_html(text: str) -> str:
    """Turn the Markdown into one HTML paragraph, safe to show.

    Examples
    --------
    >>> methods_html("As *given* <b> [@bids].")
    '<p>As <em>given</em> &lt;b&gt; (Gorgolewski et al., 2016).</p>'
    """

    def labels(match: re.Match[str]) -> str:
        keys = [key.strip(" @") for key in match[1].split(";")]
        return f"({'; '.join(escape(bibliography()[key].label) for key in keys)})"

    html = re.sub(r"\*(.+?)\*", r"<em>\1</em>", _CITATION.sub(labels, escape(text)))
    return f"<p>{html}</p>"


def write_boilerplate(
    folder: Path,
    *,
    models: Iterable[str],
    estimator: str,
    settings: Mapping[str, Any],
    preprocessed: bool = False,
) -> list[Path]:
    """Write ``CITATION.md``, ``.bib`` and ``.html`` into a folder; see `methods_text`."""
    text = methods_text(
        models=models, estimator=estimator, settings=settings, preprocessed=preprocessed
    )
    references = cited(text)
    return [
        write_text(folder / "CITATION.md", f"{text}\n\n# References\n"),
        write_text(folder / "CITATION.bib", "\n\n".join(r.source for r in references) + "\n"),
        write_text(folder / "CITATION.html", _page(text, references)),
    ]


def _page(text: str, references: Sequence[Reference]) -> str:
    items = "\n".join(
        f'<li>{escape(item.text)} <a href="{escape(item.address)}">{escape(item.address)}</a></li>'
        for item in references
    )
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Methods</title>\n'
        f"{methods_html(text)}\n<h2>References</h2>\n<ul>\n{items}\n</ul>\n</html>\n"
    )


def _noise(rician: bool, noise_map: str) -> str:
    where = {
        "auto": "estimated as a smooth map from the data",
        "global": "estimated from the data as one number",
    }.get(noise_map, "taken from a given map")
    if rician:
        return f"Noise was taken as Rician [@rician]; its standard deviation was {where}."
    return f"Noise was taken as Gaussian; its standard deviation was {where}."
