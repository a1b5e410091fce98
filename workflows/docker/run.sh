#!/usr/bin/env bash
# Map every participant of a dataset, then make the group tables, in a container.
#
#   run.sh BIDS_DIR OUTPUT_DIR [options of bids-gmvae]
#
# GPU=1     use the NVIDIA GPUs of this machine
# IMAGE     the image to run; bids_gmvae:cpu (`make image` builds it), or with GPU=1
#           bids_gmvae:cuda (`make image-cuda`)
# ENGINE    docker or podman; the first that is there
# WORK      folder for intermediate results, from which an interrupted run resumes; ./work
set -euo pipefail
(($# >= 2)) || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
bids=$(cd "$1" && pwd)
mkdir -p "$2" "${WORK:=work}"
out=$(cd "$2" && pwd)
work=$(cd "$WORK" && pwd)
shift 2

engine=${ENGINE:-$(command -v docker || command -v podman || echo docker)}
image=${IMAGE:-bids_gmvae:cpu}
# As this user, so that the results belong to them; nothing but the two folders can be written.
options=(--rm --read-only --tmpfs /tmp --network none --user "$(id -u):$(id -g)"
    -v "$bids:/data:ro" -v "$out:/out" -v "$work:/work")
devices=(--gpus all)
if [[ ${engine##*/} == podman ]]; then
    # Where SELinux is, it would keep the container from the folders; without root, podman would
    # make this user another one.
    options+=(--security-opt label=disable)
    ((EUID == 0)) || options+=(--userns keep-id)
    devices=(--device nvidia.com/gpu=all)
fi
if [[ ${GPU:-0} == 1 ]]; then
    image=${IMAGE:-bids_gmvae:cuda}
    options+=("${devices[@]}")
fi

set -x
status=0
"$engine" run "${options[@]}" "$image" /data /out participant -w /work "$@" || status=$?
# 1 and 5: some maps or pages are missing; the tables hold the others.
[[ $status =~ ^[015]$ ]] || exit "$status"
"$engine" run "${options[@]}" "$image" /data /out group -w /work
exit "$status"
