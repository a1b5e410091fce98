#!/usr/bin/env python3
"""Write the participants of a plan, one per line, and print the memory of a job in MB.

read_plan.py PLAN.json PARTICIPANTS.txt
"""

import json
import sys
from pathlib import Path

plan = json.loads(Path(sys.argv[1]).read_text())
for item in plan["invalid"]:
    print(f"cannot be mapped: {item['path']}: {item['reason']}", file=sys.stderr)
Path(sys.argv[2]).write_text("".join(f"{label}\n" for label in plan["participants"]))
print(1000 * plan["memory_gb"])
