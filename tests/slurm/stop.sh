#!/usr/bin/env bash
# Ends what tests/slurm/start.sh started, and its jobs; takes its configuration away: with a slurm.conf in place and no
# slurmctld every call of snakemake would wait ten seconds.
set -uo pipefail
LAB=${VALLEY_SLURM:-/tmp/valley-slurm}
MARK="# written by Valley's tests/slurm/start.sh"

stop() { # pid file
  [ -s "$1" ] || return 0
  local pid; pid=$(cat "$1")
  kill "$pid" 2>/dev/null
  for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
  kill -9 "$pid" 2>/dev/null
  rm -f "$1"
}

grep -qsF "$MARK" /etc/slurm/slurm.conf || exit 0
timeout 10 squeue -h -o %A 2>/dev/null | xargs -r timeout 20 scancel --full 2>/dev/null
for _ in $(seq 25); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.2; done
for file in "$LAB"/run/slurmd-*.pid "$LAB/run/slurmctld.pid"; do stop "$file"; done
[ -e "$LAB/run/munged.ours" ] && stop /run/munge/munged.pid
rm -f "$LAB/run/munged.ours"
for name in slurm gres cgroup; do grep -qsF "$MARK" "/etc/slurm/$name.conf" && rm -f "/etc/slurm/$name.conf"; done
[ -e /usr/bin/sacct ] && chmod +x /usr/bin/sacct
rm -rf "${LAB:?}"
exit 0
