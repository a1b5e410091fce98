#!/usr/bin/env bash
# Map every participant of a dataset, then make the group tables, in a container.
#
#   run.sh BIDS_DIR OUTPUT_DIR [options of bids-gmvae]
#
# GPU=1     use the NVIDIA GPUs of this machine (needs the cuda image)
# IMAGE     the image to run; bids_gmvae:cpu, or bids_gmvae:cuda with GPU=1
# ENGINE    docker or podman
# WORK      folder for intermediate results, from which an interrupted run resumes
set -euo pipefail
(($# >= 2)) || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
mkdir -p "$2"
bids=$(cd "$1" && pwd)
out=$(cd "$2" && pwd)
shift 2

engine=${ENGINE:-docker}
gpu=()
image=${IMAGE:-bids_gmvae:cpu}
if [[ ${GPU:-0} == 1 ]]; then
    gpu=(--gpus all)
    image=${IMAGE:-bids_gmvae:cuda}
fi
work=${WORK:-$PWD/work}
mkdir -p "$work"

# As this user, so that the results belong to them; nothing but the two folders can be written.
container=("$engine" run --rm --read-only --tmpfs /tmp --network none
    --user "$(id -u):$(id -g)" "${gpu[@]}"
    -v "$bids:/data:ro" -v "$out:/out" -v "$work:/work" "$image")

set -x
"${container[@]}" /data /out participant -w /work "$@"
"${container[@]}" /data /out group -w /work
