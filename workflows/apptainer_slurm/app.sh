#!/usr/bin/env bash
# Run bids-gmvae from the SIF file: app.sh BIDS_DIR OUTPUT_DIR LEVEL [options]
set -euo pipefail
bids=$1
out=$2
shift 2
# On a machine with the app installed, IMAGE= (empty) runs it without a container.
if [[ -z ${IMAGE-} ]]; then
    exec bids-gmvae "$bids" "$out" "$@" -w "${SCRATCH:?}"
fi
gpu=()
[[ ${GPU:-0} == 1 ]] && gpu=(--nv)
exec apptainer run --containall "${gpu[@]}" \
    -B "$bids:/data:ro" -B "$out:/out" -B "${SCRATCH:?}:/work" "$IMAGE" \
    /data /out "$@" -w /work
