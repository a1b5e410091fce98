"""The page about the command line, made from the parsers.

``python -m bids_gmvae.cli.reference`` prints what `docs/reference/command_line.md` must hold.
"""

from __future__ import annotations

import argparse
import re

from bids_gmvae.cli import options, parser, simulate

INTRODUCTION = """# Command line

`make descriptor` writes this page from the parsers, whose `--help` says the same.
"""


def build_page() -> str:
    """Describe both commands, and what their exit codes mean."""
    codes = [f"| {int(code)} | {text} |" for code, text in options.EXIT_CODES.items()]
    return "\n".join(
        [
            INTRODUCTION,
            *_command(parser.build_parser()),
            *_command(simulate.build_parser()),
            "## Exit codes\n",
            "| Code | Meaning |",
            "|---|---|",
            *codes,
            "",
        ]
    )


def _command(command: argparse.ArgumentParser) -> list[str]:
    """Give a table for every group of options."""
    formatter = command._get_formatter()
    usage = command.format_usage().removeprefix("usage: ").strip()
    lines = [f"## {command.prog}\n", f"```text\n{usage}\n```\n"]
    for group in command._action_groups:
        shown = [
            action
            for action in group._group_actions
            if action.help not in (None, argparse.SUPPRESS)
        ]
        if not shown:
            continue
        lines += [f"### {str(group.title).capitalize()}\n", "| Option | Default | What it does |"]
        lines.append("|---|---|---|")
        for action in shown:
            text = formatter._expand_help(action)
            meaning, _, default = text.removesuffix(")").partition(" (default: ")
            meaning = meaning if default else text
            name = formatter._format_action_invocation(action)
            row = (f"`{re.sub(r'  +', ' ', name)}`", default, meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
        lines.append("")
    return lines


if __name__ == "__main__":
    print(build_page(), end="")
