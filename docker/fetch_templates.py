"""Put the MNI152NLin2009cAsym grid and brain mask into TEMPLATEFLOW_HOME, if they can be had."""

import sys

import requests
from templateflow import api

TEMPLATE = "MNI152NLin2009cAsym"

try:
    for query in ({"suffix": "T1w", "desc": None}, {"suffix": "mask", "desc": "brain"}):
        path = api.get(TEMPLATE, resolution=2, extension=".nii.gz", **query)
        sys.stdout.write(f"{path}\n")
except (requests.RequestException, RuntimeError, OSError) as error:
    sys.stdout.write(f"{TEMPLATE} is not in the image: {error}\n")
