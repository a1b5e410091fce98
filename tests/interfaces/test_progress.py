import logging

from bids_gmvae.interfaces.progress import N_LINES, fit_progress


class Terminal:
    """A standard error that claims to be a terminal."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        """Do nothing."""


def test_without_a_terminal_a_fit_tells_a_few_lines(monkeypatch):
    told = []
    logger = logging.getLogger("bids_gmvae.interfaces.progress")
    monkeypatch.setattr(logger, "info", lambda text, *values: told.append(text % values))
    with fit_progress("sub-01 msdki", "ELBO") as progress:
        for step in range(1, 101):
            progress(step, 100, -step / 10)
    assert len(told) == N_LINES
    assert told[-1] == "sub-01 msdki: step 100 of 100, ELBO -10.00"


def test_on_a_terminal_a_bar_shows_the_elbo(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with fit_progress("sub-01 msdki", "ELBO") as progress:
        progress(50, 100, -3.25)
    assert "sub-01 msdki" in terminal.text
