"""The command line: options to settings, settings to a run, an error to an exit code."""
