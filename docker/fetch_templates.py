"""Put 2 mm grids and brain masks of templates into TEMPLATEFLOW_HOME, if they can be had.

Usage: fetch_templates.py [TEMPLATE ...]
"""

import sys

import requests
from templateflow import api

for template in sys.argv[1:]:
    try:
        for query in ({"suffix": "T1w", "desc": None}, {"suffix": "mask", "desc": "brain"}):
            path = api.get(template, resolution=2, extension=".nii.gz", **query)
            sys.stdout.write(f"{path}\n")
    except (requests.RequestException, RuntimeError, OSError) as error:
        sys.stdout.write(f"{template} is not in the image: {error}\n")
