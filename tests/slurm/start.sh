#!/usr/bin/env bash
# A real SLURM on this machine for the tests: munged, slurmctld and two slurmd from Debian's packages, without systemd.
#
#   tests/slurm/start.sh        # as root; starts what is not running, ends when both nodes are idle
#   tests/slurm/stop.sh
#
# Exit code 77: it cannot be had here (not root, no packages, another SLURM); the tests then skip.
#
# Two nodes of eight claimed CPUs and two pretended GPUs of type and feature h100 each (device files that are /dev/null),
# partitions cpu, gpu, low (preempted by high) and high. No accounting: the profile asks squeue. State lies under $VALLEY_SLURM (/tmp/valley-slurm).
set -euo pipefail
LAB=${VALLEY_SLURM:-/tmp/valley-slurm}
MARK="# written by Valley's tests/slurm/start.sh"
CONF=/etc/slurm
HOST=$(hostname -s)
NODES=(valley1 valley2)

fail() { echo "error: $*" >&2; exit 1; }
cannot() { echo "no SLURM here: $*" >&2; exit 77; }
up() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }
wait_for() { for _ in $(seq 150); do "${@:2}" >/dev/null 2>&1 && return; sleep 0.2; done; fail "$1 did not come up, see $LAB/log"; }

[ "$(id -u)" = 0 ] || cannot "slurmd and munged need root"
if [ -e $CONF/slurm.conf ] && ! grep -qF "$MARK" $CONF/slurm.conf; then
  cannot "$CONF/slurm.conf is not ours: another SLURM is configured on this machine"
fi

missing=()
for pair in slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
  # Keep the packages from starting daemons of their own.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  get_packages() { apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null; }
  command -v apt-get >/dev/null || cannot "${missing[*]} missing, and no apt-get to install them"
  get_packages || { apt-get update >/dev/null && get_packages; } || cannot "${missing[*]} cannot be installed"
fi

mkdir -p "$LAB"/{run,log,spool,state,dev} $CONF
# Without accounting sacct can only fail, but Snakemake's plugin would turn to it as soon as the controller is away for a
# moment, and then wait without end.
! command -v sacct >/dev/null || chmod -x "$(command -v sacct)"
if ! up "$LAB/run/slurmctld.pid"; then
  for i in 0 1; do [ -e "$LAB/dev/nvidia$i" ] || mknod -m 666 "$LAB/dev/nvidia$i" c 1 3 || cannot "no device files"; done
  cat >$CONF/slurm.conf <<CONFIG
$MARK
ClusterName=valley
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job starts again after this + 1 s; 120 by default
AuthInfo=cred_expire=10
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
StateSaveLocation=$LAB/state
SlurmdPidFile=$LAB/run/slurmd-%n.pid
SlurmdLogFile=$LAB/log/slurmd-%n.log
SlurmdSpoolDir=$LAB/spool/%n
# the nodes claim more than the machine has
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
MinJobAge=300
KillWait=5
CompleteWait=0
SlurmdTimeout=30
InactiveLimit=0
GresTypes=gpu
AccountingStorageType=accounting_storage/none
NodeName=DEFAULT CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=400000 Gres=gpu:h100:2 Features=h100 State=UNKNOWN
NodeName=valley1 NodeHostname=$HOST NodeAddr=127.0.0.1 Port=17101
NodeName=valley2 NodeHostname=$HOST NodeAddr=127.0.0.1 Port=17102
PartitionName=DEFAULT Nodes=valley1,valley2 State=UP DefaultTime=10 MaxTime=24:00:00
PartitionName=cpu Default=YES PriorityTier=10
PartitionName=gpu PriorityTier=10
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high PriorityTier=50 PreemptMode=OFF
CONFIG
  printf '%s\nNodeName=valley1,valley2 Name=gpu Type=h100 Count=2 File=%s\n' "$MARK" "$LAB/dev/nvidia[0-1]" >$CONF/gres.conf
  printf '%s\nCgroupAutomount=no\n' "$MARK" >$CONF/cgroup.conf
fi

if ! { munge -n | unmunge; } >/dev/null 2>&1; then
  [ -s /etc/munge/munge.key ] || { head -c 1024 /dev/urandom >/etc/munge/munge.key; chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
  install -d -o munge -g munge -m 755 /run/munge
  install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
  runuser -u munge -- munged --force
  touch "$LAB/run/munged.ours"
  wait_for munged sh -c 'munge -n | unmunge'
fi
up "$LAB/run/slurmctld.pid" || slurmctld
wait_for slurmctld sh -c 'scontrol ping | grep -q "is UP"'
for node in "${NODES[@]}"; do
  up "$LAB/run/slurmd-$node.pid" || { mkdir -p "$LAB/spool/$node"; slurmd -N "$node"; }
done
for node in "${NODES[@]}"; do
  case $(sinfo -h -N -n "$node" -o %T | head -1) in *down* | *drain* | *unk*) scontrol update nodename="$node" state=resume || true ;; esac
done
wait_for "an idle node" sh -c '[ "$(sinfo -h -N -p cpu -o %t | grep -cE "^(idle|mix|alloc|comp)$")" = 2 ]'
echo "SLURM is up: $(sinfo -h -o '%P %D %t' | paste -sd,)"
