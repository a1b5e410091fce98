"""Deliberate bugs, each with the tests that should notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Bug:
    """A text of the package replaced by a wrong one.

    Attributes
    ----------
    name : str
        What is wrong.
    file : str
        Path within the package.
    old, new : str
        The text, which occurs once in the file, and what it becomes.
    tests : tuple of str
        Files below ``tests``.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def put_into(self, root: Path) -> str:
        """Make the mistake in a copy of the repository; give the correct source."""
        path = root / "bids_gmvae" / self.file
        source = path.read_text(encoding="utf-8")
        if source.count(self.old) != 1:
            raise ValueError(f"{self.file} must hold this text once: {self.old}")
        path.write_text(source.replace(self.old, self.new), encoding="utf-8")
        return source


BUGS = (
    # Physics
    Bug("sign of the kurtosis term", "signal_models/msdki.py",
        "(1 - decay * torch.minimum(", "(1 + decay * torch.minimum(",
        ("signal_models/test_msdki.py",)),
    Bug("sign of the ball's exponent", "signal_models/ball_stick.py",
        "ball = torch.exp(-acquisition.bvals *", "ball = torch.exp(acquisition.bvals *",
        ("signal_models/test_ball_stick.py",)),
    Bug("T2 as a rate", "signal_models/t2_adc.py",
        "- delay / t2)", "- delay * t2)",
        ("signal_models/test_t2_adc.py",)),
    Bug("compiled kurtosis term without its sixth", "signal_models/compiled.py",
        "min(kurtosis, limit) / 6))", "min(kurtosis, limit)))",
        ("estimators/test_compiled.py",)),
    # Gradient tables
    Bug("b-values in ms/um^2", "io/gradients.py",
        "return np.array([value for row in rows for value in row])",
        "return np.array([value / 1000 for row in rows for value in row])",
        ("io/test_gradients.py",)),
    Bug("world axes rotated the wrong way", "io/gradients.py",
        "vectors @ np.linalg.inv(cosines).T", "vectors @ np.linalg.inv(cosines)",
        ("io/test_gradients.py",)),
    Bug("FSL's negated axis forgotten", "io/gradients.py",
        "sign = -1.0 if", "sign = 1.0 if",
        ("io/test_gradients.py",)),
    Bug("b0 threshold ignored", "acquisition.py",
        'columns["bvals"] <= b0_threshold)', 'columns["bvals"] <= 100.0)',
        ("test_acquisition.py",)),
    Bug("neighbouring shells merged", "acquisition.py",
        "first > b0_threshold and close and b <=", "first > b0_threshold and b <=",
        ("test_acquisition.py",)),
    # Noise
    Bug("sigma not squared in the likelihood", "likelihoods.py",
        "variance = self.sigma**2\n        z =", "variance = self.sigma\n        z =",
        ("test_likelihoods.py",)),
    Bug("Rician bias ignored", "likelihoods.py",
        "return self.sigma * (torch.pi / 2) ** 0.5 * (", "return self.signal + 0 * (",
        ("test_likelihoods.py",)),
    Bug("a mean as noisy as one volume", "estimators/problem.py",
        "variance, slope = noise.variance / self.counts, noise.mean_slope",
        "variance, slope = noise.variance, noise.mean_slope",
        ("estimators/test_solver.py",)),
    Bug("noise over all volumes, as if none were fitted", "estimators/noise.py",
        "free = (1 - (span**2).sum(dim=1)) @ by_shell", "free = by_shell.sum(dim=0)",
        ("estimators/test_noise.py",)),
    # Prior and posterior
    Bug("responsibilities not normalised", "priors/combine.py",
        "torch.exp(log_joint - log_evidence[:, None])", "torch.exp(log_joint)",
        ("test_priors.py",)),
    Bug("weights of the prior ignored", "priors/mixture.py",
        "offset = torch.log(self.weights) - (", "offset = -(",
        ("test_priors.py",)),
    Bug("covariances around the origin", "priors/mixture.py",
        "scatter = statistics.second - cross", "scatter = statistics.second  # - cross",
        ("test_priors.py",)),
    Bug("variance instead of standard deviation", "estimators/compiled/moments.py",
        "std[v, p] = math.sqrt(max(second - first**2, 0.0))",
        "std[v, p] = max(second - first**2, 0.0)",
        ("estimators/test_moments.py",)),
    Bug("prior influence inverted", "estimators/gmvae.py",
        "return (1 - kernel).clamp(0, 1)", "return kernel.clamp(0, 1)",
        ("estimators/test_gmvae.py",)),
    Bug("seed ignored", "estimators/gmvae.py",
        "manual_seed(self.settings.random_seed)\n        problems",
        "manual_seed(0)\n        problems",
        ("estimators/test_conformance.py",)),
    # Status
    Bug("no convergence passed off as a bound", "estimators/residuals.py",
        "status[~converged] = int(Status.NOT_CONVERGED)",
        "status[~converged] = int(Status.AT_BOUND)",
        ("estimators/test_residuals.py",)),
    Bug("status codes swapped", "posterior.py",
        "AT_BOUND = 2\n    NOT_CONVERGED = 3", "AT_BOUND = 3\n    NOT_CONVERGED = 2",
        ("test_posterior.py",)),
    # Images
    Bug("first axis of maps flipped", "io/derivatives.py",
        "return unmask(rows, mask, fill=0)", "return unmask(rows, mask, fill=0)[::-1]",
        ("io/test_derivatives.py",)),
    Bug("axes of maps swapped", "io/derivatives.py",
        "return unmask(rows, mask, fill=0)", "return unmask(rows, mask, fill=0).swapaxes(0, 1)",
        ("io/test_derivatives.py",)),
    Bug("NaN written as 0", "io/derivatives.py",
        "FAILED)] = np.nan", "FAILED)] = 0",
        ("io/test_derivatives.py",)),
    Bug("mean and standard deviation exchanged", "posterior.py",
        "(parameter, self.mean[:, index], self.std[:, index])",
        "(parameter, self.std[:, index], self.mean[:, index])",
        ("io/test_derivatives.py",)),
    Bug("mask off by one voxel", "io/volumes.py",
        'np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")',
        'np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F") - 1',
        ("io/test_volumes.py",)),
    Bug("units left out of sidecars", "io/sidecars.py",
        '"Units": unit or DIMENSIONLESS', '"Units": DIMENSIONLESS',
        ("io/test_sidecars.py",)),
    Bug("transforms applied in the wrong order", "io/spaces.py",
        "for part in reversed(parts):", "for part in parts:",
        ("io/test_spaces.py",)),
    # Files, resuming, exit codes
    Bug("unfinished files under their final name", "io/atomic.py",
        """\
                yield temporary
                _sync(temporary)
                temporary.replace(path)
""",
        """\
                yield path
                _sync(path)
                temporary.unlink()
""",
        ("io/test_atomic.py",)),
    Bug("a fit of other settings taken up again", "interfaces/estimation.py",
        'settings = traits.Dict(desc=', 'settings = traits.Dict(nohash=True, desc=',
        ("interfaces/test_estimation.py",)),
    Bug("exit code 0 although a run failed", "cli/levels.py",
        "if codes or ExitCode.RUN_FAILED in incomplete", "if ExitCode.RUN_FAILED in incomplete",
        ("cli/test_run.py",)),
    Bug("what a process reads and writes not counted", "cli/watchdog.py",
        "return counters.read_chars + counters.write_chars", "return 0",
        ("cli/test_watchdog.py",)),
    Bug("a process taken for stalled that makes a graph", "cli/watchdog.py",
        "time.process_time() - time.thread_time()", "0.0",
        ("cli/test_watchdog.py",)),
    Bug("every byte of the resource monitor taken for movement", "cli/watchdog.py",
        "IDLE_BYTES = 600", "IDLE_BYTES = 0",
        ("cli/test_watchdog.py",)),
    Bug("processes that stand still told but not ended", "cli/watchdog.py",
        "                self._end()\n", "",
        ("cli/test_watchdog.py",)),
    Bug("a watchdog that waits for the disk of the log", "cli/watchdog.py",
        "    telling.start()\n", "    telling.start()\n    telling.join()\n",
        ("cli/test_watchdog.py",)),
    Bug("every further node waits for a dead disk", "cli/pool.py",
        "if self._n_stalls > 1:", "if self._n_stalls > 99:",
        ("cli/test_workers.py",)),
    Bug("variance over regions in group tables", "group/tables.py",
        '"std": float(mean.std())', '"std": float(mean.var())',
        ("group/test_tables.py",)),
    Bug("the reason of an earlier call told for a killed worker", "cli/failures.py",
        "left = None if known in (STALLED, KILLED) else read_failure",
        "left = read_failure",
        ("cli/test_execution.py",)),
    Bug("Ctrl-C lost where Nipype catches everything", "cli/execution.py",
        "        insist()\n", "",
        ("cli/test_execution.py",)),
    Bug("no second try while a fork server is ending", "cli/workers.py",
        "if time.monotonic() > deadline:\n                    raise\n", "raise\n",
        ("cli/test_workers.py",)),
    Bug("maps that were removed not written again", "workflows/sinks.py",
        " and left_alone(Path(self.output_dir()))", "",
        ("workflows/test_sinks.py",)),
    Bug("maps of an earlier result kept", "interfaces/base.py",
        "{**stamps, **stamps_of(written)}", "stamps_of(written)",
        ("workflows/test_sinks.py",)),
    Bug("Ctrl-C let through to the server of the workers", "cli/workers.py",
        "    resource_tracker.ensure_running()\n", "",
        ("cli/test_workers.py",)),
    Bug("files that changed between two stages combined", "interfaces/checked.py",
        "if not stamp.fits(path):", "if not path.exists():",
        ("interfaces/test_changed.py",)),
    Bug("signals that a loss of power damaged fitted", "io/measured.py",
        'if digest(file) != header["signals"]["sha256"]:', "if not file.exists():",
        ("interfaces/test_estimation.py",)),
    Bug("group tables over voxels without estimates", "group/regions.py",
        "return ~np.isin(load_map(folder, name), WITHOUT_ESTIMATE)",
        "return load_map(folder, name) >= 0",
        ("group/test_tables.py",)),
    # Guards
    Bug("b0 images of any brightness taken", "modalities/dwi_brightness.py",
        "usual = np.sort(logs[:, members], axis=1)[:, [members.sum() // 2]]",
        "usual = logs[:, members]",
        ("modalities/test_dwi_brightness.py",)),
    Bug("lost slices not told", "modalities/dwi_brightness.py",
        "lost = enough & (judged[1:] - judged[0] <", "lost = ~enough & (judged[1:] - judged[0] <",
        ("modalities/test_dwi_brightness.py",)),
    Bug("noise floor compared with the variance", "modalities/dwi_floor.py",
        "np.quantile(late[fluid] / late_sd[fluid], 0.1)",
        "np.quantile(late[fluid] / late_sd[fluid] ** 2, 0.1)",
        ("modalities/test_dwi_floor.py",)),
    Bug("water as fast as it likes", "modalities/dwi_data.py",
        "if share <= MANY_FASTER:", "if share >= MANY_FASTER:",
        ("modalities/test_dwi_data.py",)),
    # Safety
    Bug("changed fits taken for the originals", "estimators/saved_fit.py",
        'content.pop("checksum") == _checksum(content)', 'content.pop("checksum") != ""',
        ("estimators/test_saved_fit.py",)),
    Bug("text of a dataset put into a page as it is", "report/page.py",
        "autoescape=True", "autoescape=False",
        ("report/test_assemble.py",)),
)  # fmt: skip
