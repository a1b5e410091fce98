#!/usr/bin/env bash
# Submit one job per participant that has something to map, and the group level after them.
#
#   submit.sh BIDS_DIR OUTPUT_DIR [options of bids-gmvae]
#
# IMAGE     the app as a SIF file: apptainer build bids_gmvae.sif docker-daemon://bids_gmvae:cpu
# GPU=1     ask for one GPU per job (needs an image made from bids_gmvae:cuda)
# SCRATCH   folder for intermediate results that outlives a job, so that a requeued job resumes
# CPUS      cores of a job; 4
# MEM       its memory, e.g. 16G; what the plan says that the largest participant needs
# LIMIT     jobs at the same time; 20
# LABELS    participants, e.g. LABELS="01 02"; all that have something to map
# SBATCH_*  whatever your cluster wants, e.g. SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_TIMELIMIT
set -euo pipefail
(($# >= 2)) || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
if [[ " $* " == *" --participant"?"label"* ]]; then
    echo "Choose participants by LABELS=\"01 02\": each job gets one of them." >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$2"
bids=$(cd "$1" && pwd)
out=$(cd "$2" && pwd)
shift 2

export IMAGE=${IMAGE-$PWD/bids_gmvae.sif}
export GPU=${GPU:-0}
export SCRATCH=${SCRATCH:-$PWD/work}
mkdir -p "$out/logs/slurm" "$SCRATCH"
# The folder of the jobs' scripts is copied by SLURM; the tasks need to find their helper again.
export RECIPE=$here

# The plan names the participants that have something to map; it is kept beside the logs.
plan=$out/logs/slurm/plan.json
selection=()
[[ -n ${LABELS:-} ]] && read -ra selection <<<"--participant-label $LABELS"
GPU=0 "$here/app.sh" "$bids" "$out" participant "$@" "${selection[@]}" --dry-run=json \
    --device cpu >"$plan"
participants=$out/logs/slurm/participants.txt
memory=$("$here/read_plan.py" "$plan" "$participants")
count=$(wc -l <"$participants")
echo "$count participants; the plan is in $plan"
((count > 0)) || exit 3

resources=(--cpus-per-task="${CPUS:-4}" --mem="${MEM:-${memory}M}")
device=()
if [[ $GPU == 1 ]]; then
    resources+=(--gres=gpu:1)
    device=(--device cuda)
fi
array=$(sbatch --parsable --array="1-$count%${LIMIT:-20}" "${resources[@]}" \
    --output="$out/logs/slurm/%A_%a.log" "$here/participant.sbatch" \
    "$participants" "$bids" "$out" "${device[@]}" "$@")
# After them whatever became of them: the tables hold the participants that were mapped.
group=$(sbatch --parsable --dependency="afterany:$array" \
    --output="$out/logs/slurm/%j_group.log" "$here/group.sbatch" "$bids" "$out")
echo "Submitted $array (participants) and $group (group)."
