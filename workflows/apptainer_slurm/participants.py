#!/usr/bin/env python3
"""Print the participants of a plan, one per line: participants.py PLAN.json."""

import json
import sys
from pathlib import Path

plan = json.loads(Path(sys.argv[1]).read_text())
for item in plan["invalid"]:
    print(f"cannot be mapped: {item['path']}: {item['reason']}", file=sys.stderr)
for participant in plan["participants"]:
    print(participant)
