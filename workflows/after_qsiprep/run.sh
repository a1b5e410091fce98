#!/usr/bin/env bash
# From raw data to maps and tables: QSIPrep, then bids-gmvae on its output.
#
#   run.sh BIDS_DIR DERIVATIVES_DIR [options of bids-gmvae]
#
# Writes DERIVATIVES_DIR/qsiprep and DERIVATIVES_DIR/bids_gmvae. QSIPrep is skipped where its
# output exists already, whichever release made it. Ends with the exit code of the participants.
#
# QSIPREP        the command that runs QSIPrep; a container works too, if it sees the same paths
# QSIPREP_ARGS   its options; --output-resolution is required by it
# WORK           folder for intermediate results
set -euo pipefail
(($# >= 2)) || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
mkdir -p "$2"
bids=$(cd "$1" && pwd)
derivatives=$(cd "$2" && pwd)
shift 2
work=${WORK:-$PWD/work}
mkdir -p "$work"

# Releases before 1.0 write into a folder qsiprep of their own accord.
preprocessed=$derivatives/qsiprep
[[ -f $preprocessed/qsiprep/dataset_description.json ]] && preprocessed=$preprocessed/qsiprep
set -x
if [[ ! -f $preprocessed/dataset_description.json ]]; then
    read -ra arguments <<<"${QSIPREP_ARGS:---output-resolution 2}"
    ${QSIPREP:-qsiprep} "$bids" "$derivatives/qsiprep" participant -w "$work/qsiprep" \
        "${arguments[@]}"
    [[ -f $derivatives/qsiprep/qsiprep/dataset_description.json ]] &&
        preprocessed=$derivatives/qsiprep/qsiprep
fi
status=0
bids-gmvae "$preprocessed" "$derivatives/bids_gmvae" participant -w "$work/bids_gmvae" "$@" ||
    status=$?
# 1 and 5: some maps or pages are missing; the tables hold the others.
[[ $status =~ ^[015]$ ]] || exit "$status"
bids-gmvae "$preprocessed" "$derivatives/bids_gmvae" group -w "$work/bids_gmvae"
exit "$status"
