#!/usr/bin/env bash
# mini_slurm.sh - a real multi-node Slurm cluster on one host, for tests.
#
#   mini_slurm.sh start       DIR [NODES=4] [GPUS=8]  start what is not running; wait until idle
#   mini_slurm.sh stop        DIR                     cancel jobs, stop only what this DIR started
#   mini_slurm.sh status      DIR                     daemons, nodes, jobs; fails unless all are up
#   mini_slurm.sh watch       DIR PID                 when process PID is gone: stop, and remove DIR
#   mini_slurm.sh kill-node   DIR N                   node N loses power: slurmd and its jobs, SIGKILL
#   mini_slurm.sh kill-slurmd DIR N                   only the daemon of node N; its jobs live on
#   mini_slurm.sh start-node  DIR N                   node N comes back
#   mini_slurm.sh kill-ctld   DIR                     the controller dies (SIGKILL)
#   mini_slurm.sh start-ctld  DIR                     the controller comes back
#   eval "$(mini_slurm.sh env DIR)"                   SLURM_CONF and PATH for the client commands
#
# One slurmd per node (slurmd -N nodeX, each on its own port) beside one munged, one slurmctld and, with
# accounting, one mariadbd and one slurmdbd. Everything lives in DIR: nothing is read from or written to
# /etc/slurm, /run or /var, and clusters with different DIR and MS_PORT run side by side.
# Debian 12 packages: slurmctld slurmd slurm-client munge, and for accounting slurmdbd
# slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core. Needs root (mknod, slurmd).
#
# Knobs, read by the first start in a DIR and kept in DIR/etc/settings:
#   MS_ACCT=1        slurmdbd + mariadb; 0: a sacct stand-in that asks squeue (all that submitit needs)
#   MS_PORT=17000    first of NODES+3 TCP ports: slurmctld, the nodes, slurmdbd, mariadbd
#   MS_CPUS=32       CPUs declared per node           MS_MEM=64000        memory declared per node, MB
#   MS_GRACE=10      preemption GraceTime, s          MS_NODE_TIMEOUT=10  SlurmdTimeout, s
#   MS_ARRAY=10001   MaxArraySize                     MS_USER_SIGNAL=1    0: preempt by SIGTERM, as most sites do
#   MS_CGROUP=0      1: cgroup v1 tracking, memory and device limits (one such cluster per host)
#   MS_UTS=0         1: each node has its own hostname (unshare --uts)
#   MS_EXTRA=''      more slurm.conf lines
set -euo pipefail

die() { echo "mini_slurm: $*" >&2; exit 1; }
note() { echo "mini_slurm: $*" >&2; }

cmd=${1:-}; [[ -n $cmd && -n ${2:-} ]] || { sed -n '3,13s/^# *//p' "$0" >&2; exit 2; }
[[ $cmd == start ]] && mkdir -p "$2"
D=$(cd "$2" 2>/dev/null && pwd -P) || die "no such directory: $2"
# slurmstepd listens on DIR/spool/<node>/<node>_<job>.<step>, and sun_path holds 107 characters
(( ${#D} <= 60 )) || die "state directory name too long for unix sockets (${#D} > 60): $D"
export SLURM_CONF=$D/etc/slurm.conf PATH=$D/bin:$PATH:/usr/sbin:/sbin
unset "${!SQUEUE_@}" "${!SINFO_@}"  # a user's own formats

slurm() { timeout -k 1 "${MS_CLIENT_TIMEOUT:-10}" "$@"; }  # a client command; some hang when a daemon is gone

# ---- processes: always by pid file, and only if the process carries DIR in its command or environment --
ours() { [[ $1 =~ ^[0-9]+$ ]] && grep -qsF "$D/" "/proc/$1/cmdline" "/proc/$1/environ"; }   # not a zombie, ours
pid_of() { # NAME -> its pid, if it runs
    local p; p=$(cat "$D/run/$1.pid" 2>/dev/null) && ours "$p" && echo "$p"
}
end() { # NAME [SECONDS]: SIGTERM, wait until the process is gone (its pid file goes first), SIGKILL
    local p i
    if p=$(pid_of "$1"); then
        kill "$p" 2>/dev/null || true
        for ((i = 0; i < ${2:-10} * 10; i++)); do ours "$p" || break; sleep 0.1; done
        if ours "$p"; then note "$1 ($p) ignored SIGTERM, killing"; kill -9 "$p" 2>/dev/null || true; fi
    fi
    rm -f "$D/run/$1.pid"
}
steps() { # [NODE]: pids of this cluster's (that node's) slurmstepd; each holds its node's log open
    local s
    for s in /proc/[0-9]*; do
        [[ $(cat "$s/comm" 2>/dev/null) == slurmstepd* ]] || continue
        find "$s/fd" -lname "$D/log/slurmd-${1:-*}.log" 2>/dev/null | grep -q . && echo "${s#/proc/}"
    done
    return 0
}
kill_tree() { # PID: SIGKILL it and all its descendants
    local c
    kill -STOP "$1" 2>/dev/null || return 0
    for c in $(ps -o pid= --ppid "$1"); do kill_tree "$c"; done
    kill -9 "$1" 2>/dev/null || true
}
wait_for() { # SECONDS WHAT CMD...: poll until CMD succeeds
    local t=$((SECONDS + $1)) what=$2; shift 2
    until "$@" >/dev/null 2>&1; do
        (( SECONDS < t )) || die "timed out waiting for $what; see $D/log"
        sleep 0.1
    done
}
port_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || die "port $1 is taken; choose another MS_PORT"; }
settings() {
    [[ -s $D/etc/settings ]] || die "no cluster in $D"
    # shellcheck disable=SC1091
    . "$D/etc/settings"
}
NODES='' GPUS='' PORT='' ACCT='' CPUS='' MEM='' GRACE='' NODE_TIMEOUT='' ARRAY='' USER_SIGNAL='' CGROUP='' UTS=''  # kept in DIR/etc/settings

# ---- configuration --------------------------------------------------------------------------------------
configure() { # NODES GPUS
    local b i host acct track
    mkdir -p "$D"/{bin,dev,etc,log,run,spool/ctld}; chmod 755 "$D" "$D/run"
    cat >"$D/etc/settings.new" <<EOS
NODES=$1
GPUS=$2
ACCT=${MS_ACCT:-1}
PORT=${MS_PORT:-17000}
CPUS=${MS_CPUS:-32}
MEM=${MS_MEM:-64000}
GRACE=${MS_GRACE:-10}
NODE_TIMEOUT=${MS_NODE_TIMEOUT:-10}
ARRAY=${MS_ARRAY:-10001}
USER_SIGNAL=${MS_USER_SIGNAL:-1}
CGROUP=${MS_CGROUP:-0}
UTS=${MS_UTS:-0}
EOS
    # shellcheck disable=SC1091
    . "$D/etc/settings.new"
    host=$(hostname -s)
    for ((i = PORT; i <= PORT + NODES + 2 * ACCT; i++)); do port_free "$i"; done
    # Slurm asks "am I slurmd / slurmctld?" of the name it was run by: run as slurmd-wlm it silently drops
    # Gres=. And where slurm-wlm-emulator is installed, that is what /usr/sbin/slurmd points to. Hence
    # private links, with the right names, to the right binaries.
    for b in slurmctld slurmd slurmstepd; do
        if [[ -x /usr/sbin/$b-wlm ]]; then ln -sf "/usr/sbin/$b-wlm" "$D/bin/$b"
        else ln -sf "$(command -v "$b")" "$D/bin/$b"; fi
    done
    [[ -s $D/etc/munge.key ]] || (umask 077; head -c 1024 /dev/urandom >"$D/etc/munge.key")

    # GPUs without File= register as 0, and File= must name device nodes. Made-up ones will do (major 240
    # is for local use; not clones of /dev/null, which ConstrainDevices would then take from the jobs).
    # CUDA_VISIBLE_DEVICES gets the number at the end of the name.
    : >"$D/etc/gres.conf"
    for ((i = 0; i < GPUS; i++)); do [[ -c $D/dev/nvidia$i ]] || mknod -m 666 "$D/dev/nvidia$i" c 240 "$i"; done
    (( GPUS == 0 )) || echo "NodeName=node[1-$NODES] Name=gpu File=$D/dev/nvidia[0-$((GPUS - 1))]" >"$D/etc/gres.conf"

    echo "CgroupMountpoint=/sys/fs/cgroup" >"$D/etc/cgroup.conf"
    track=$'ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none'
    if (( CGROUP )); then
        [[ -d /sys/fs/cgroup/freezer && -d /sys/fs/cgroup/memory ]] || die "MS_CGROUP=1 needs cgroup v1"
        track=$'ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup'
        printf '%s\n' CgroupPlugin=cgroup/v1 ConstrainRAMSpace=yes ConstrainDevices=yes >>"$D/etc/cgroup.conf"
    fi

    if (( ACCT )); then
        # AccountingStoragePass is where clients of slurmdbd look for the munge socket (not AuthInfo)
        acct="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + NODES + 1))
AccountingStoragePass=$D/run/munge.sock
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=10"
        (umask 077; cat >"$D/etc/slurmdbd.conf") <<EOS
AuthType=auth/munge
AuthInfo=socket=$D/run/munge.sock
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((PORT + NODES + 1))
SlurmUser=root
PidFile=$D/run/slurmdbd.pid
LogFile=$D/log/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + NODES + 2))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
CommitDelay=1
EOS
    else
        acct=$'AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none'
        cat >"$D/bin/sacct" <<'EOS'
#!/bin/sh
# Stands in for sacct where submitit calls it. squeue remembers finished jobs for MinJobAge seconds.
ids=; while [ $# -gt 0 ]; do case $1 in -j) ids=$ids,$2; shift;; esac; shift; done
echo 'JobID|State|NodeList'
[ -z "$ids" ] || squeue -h -t all -j "${ids#,}" -o '%i|%T|%N'
EOS
        chmod 755 "$D/bin/sacct"
    fi

    cat >"$D/etc/slurm.conf" <<EOS
ClusterName=mini
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job must wait before it starts again (3 is refused)
AuthInfo=socket=$D/run/munge.sock,cred_expire=5
StateSaveLocation=$D/spool/ctld
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd-%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
$track
PropagateResourceLimits=NONE
# resources: believe this file, not the hardware
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu
# preemption: "high" pushes out "low"; the job's --signal is sent when the grace time starts
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$( ((USER_SIGNAL == 0)) || echo SlurmctldParameters=preempt_send_user_signal)
JobRequeue=1
# short times
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,default_queue_depth=2000
KillWait=2
SlurmdTimeout=$NODE_TIMEOUT
SlurmctldTimeout=10
UnkillableStepTimeout=20
MessageTimeout=10
TCPTimeout=2
InactiveLimit=0
# 1, not 2: a live node set DOWN by hand must not take its own requeued job while the old one still dies
ReturnToService=1
# room
MaxArraySize=$ARRAY
MaxJobCount=50000
MinJobAge=600
$acct
JobCompType=jobcomp/filetxt
JobCompLoc=$D/log/jobcomp.log
${MS_EXTRA:-}
EOS
    for ((i = 1; i <= NODES; i++)); do
        mkdir -p "$D/spool/node$i"
        echo "NodeName=node$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((PORT + i)) CPUs=$CPUS RealMemory=$MEM$( ((GPUS == 0)) || echo " Gres=gpu:$GPUS")"
    done >>"$D/etc/slurm.conf"
    cat >>"$D/etc/slurm.conf" <<EOS
PartitionName=low  Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1   PreemptMode=REQUEUE GraceTime=$GRACE
PartitionName=high Nodes=ALL             MaxTime=INFINITE PriorityTier=100 PreemptMode=OFF
EOS
    # shellcheck disable=SC2016  # PATH is for whoever reads it
    printf 'export SLURM_CONF=%q\nexport PATH=%q:"$PATH"\n' "$SLURM_CONF" "$D/bin" >"$D/env.sh"
    mv "$D/etc/settings.new" "$D/etc/settings"
}

# ---- daemons --------------------------------------------------------------------------------------------
start_db() {
    local sql=(mariadb --no-defaults -uroot --socket="$D/run/db.sock")
    if [[ ! -d $D/db/mysql ]]; then
        mariadb-install-db --no-defaults --user=root --datadir="$D/db" --skip-test-db \
            --auth-root-authentication-method=normal >"$D/log/mariadb-install.log" 2>&1 || die "mariadb-install-db failed"
    fi
    if ! pid_of mariadbd >/dev/null; then
        setsid mariadbd --no-defaults --user=root --datadir="$D/db" --socket="$D/run/db.sock" \
            --pid-file="$D/run/mariadbd.pid" --log-error="$D/log/mariadbd.log" \
            --bind-address=127.0.0.1 --port=$((PORT + NODES + 2)) --skip-log-bin --skip-name-resolve \
            --innodb-buffer-pool-size=16M --innodb-log-buffer-size=1M --innodb-log-file-size=16M --key-buffer-size=1M \
            --aria-pagecache-buffer-size=1M --max-connections=32 --table-open-cache=200 --query-cache-size=0 --innodb-flush-log-at-trx-commit=0 \
            --innodb-doublewrite=0 --innodb-lock-wait-timeout=900 --performance-schema=OFF \
            </dev/null >/dev/null 2>&1 &
        wait_for 30 mariadbd "${sql[@]}" -e 'select 1'
        "${sql[@]}" -e "create database if not exists slurm_acct;
            create user if not exists slurm@'127.0.0.1' identified by 'slurm';
            grant all on slurm_acct.* to slurm@'127.0.0.1'"
    fi
    if ! pid_of slurmdbd >/dev/null; then
        slurmdbd </dev/null >>"$D/log/start.log" 2>&1
        wait_for 30 slurmdbd slurm sacctmgr -n show cluster
    fi
    [[ -n $(slurm sacctmgr -nP show cluster mini format=cluster) ]] || slurm sacctmgr -i add cluster mini >/dev/null
}
start_node() { # N
    pid_of "slurmd-node$1" >/dev/null && return 0
    rm -f "$D/run/slurmd-node$1.pid"
    local run=("$D/bin/slurmd" -f "$SLURM_CONF" -N "node$1" -d "$D/bin/slurmstepd")
    # shellcheck disable=SC2016  # for the inner shell
    (( UTS == 0 )) || run=(unshare --uts sh -c 'hostname "$0"; exec "$@"' "node$1" "${run[@]}")
    "${run[@]}" </dev/null >>"$D/log/start.log" 2>&1
}
start_ctld() {
    pid_of slurmctld >/dev/null && return 0
    local fresh=()
    [[ -e $D/spool/ctld/job_state ]] || fresh=(-c)
    "$D/bin/slurmctld" -f "$SLURM_CONF" "${fresh[@]}" </dev/null >>"$D/log/start.log" 2>&1
    wait_for 30 slurmctld slurm scontrol ping
}
nodes_in() { slurm sinfo -h -N -n "${2:-node[1-$NODES]}" -p low -t "$1" -o %N 2>/dev/null | sort -u; } # STATES [NODES]
up() { # NODES COUNT
    [[ $(nodes_in idle,mixed,allocated "$1" | wc -l) -eq $2 && -z $(nodes_in no_respond,down,drain,unknown "$1") ]]
}
known() { # whether each node whose daemon runs has told the controller what it has: before, jobs for GPUs are refused
    local n running=''
    for ((n = 1; n <= NODES; n++)); do if pid_of "slurmd-node$n" >/dev/null; then running+=,node$n; fi; done
    [[ -z $running || -z $(nodes_in unknown,no_respond "${running#,}") ]]
}
wake() { # NODES COUNT: until these nodes take jobs
    local down
    down=$(nodes_in down,drain "$1" | paste -sd,)
    # Refused where a node has come back by itself in the meantime: whether all are up is seen below.
    [[ -z $down ]] || slurm scontrol update nodename="$down" state=resume 2>/dev/null || true
    wait_for 60 "$1" up "$1" "$2"
}
start() { # [NODES [GPUS]]
    local t0=$EPOCHREALTIME i
    [[ $(id -u) == 0 ]] || die "start needs root"
    if [[ -s $D/etc/settings ]]; then
        settings
        [[ ${1:-$NODES} == "$NODES" && ${2:-$GPUS} == "$GPUS" ]] || die "$D was made for $NODES nodes x $GPUS GPUs; stop it and remove it first"
    else configure "${1:-4}" "${2:-8}"; fi
    if ! pid_of munged >/dev/null; then
        rm -f "$D/run/munge.sock"*
        munged --key-file="$D/etc/munge.key" --socket="$D/run/munge.sock" --pid-file="$D/run/munged.pid" \
            --log-file="$D/log/munged.log" --seed-file="$D/run/munged.seed" --num-threads=2
    fi
    (( ACCT == 0 )) || start_db
    start_ctld
    for ((i = 1; i <= NODES; i++)); do start_node "$i"; done
    wake "node[1-$NODES]" "$NODES"
    note "up: $NODES nodes x $GPUS GPUs in $(awk -v a="$t0" -v b="$EPOCHREALTIME" 'BEGIN{printf "%.1f", b-a}') s"
}
stop() {
    local i p
    settings
    if pid_of slurmctld >/dev/null && pid_of munged >/dev/null; then
        slurm squeue -h -o %A 2>/dev/null | sort -u | slurm xargs -r scancel 2>/dev/null || true
        for ((i = 0; i < 40; i++)); do [[ -n $(steps) ]] || break; sleep 0.25; done
    fi
    for ((i = 1; i <= NODES; i++)); do end "slurmd-node$i" & done; wait
    for p in $(steps); do note "leftover slurmstepd $p killed"; kill_tree "$p"; done
    for i in slurmctld slurmdbd mariadbd munged; do end $i 20; done
    if (( CGROUP )); then
        for ((i = 1; i <= NODES; i++)); do
            find /sys/fs/cgroup/*/"slurm_node$i" -depth -type d -exec rmdir {} \; 2>/dev/null || true
        done
    fi
    note "stopped"
}
status() {
    local n p running=0 all=(munged slurmctld)
    settings
    (( ACCT == 0 )) || all+=(mariadbd slurmdbd)
    for ((n = 1; n <= NODES; n++)); do all+=("slurmd-node$n"); done
    for n in "${all[@]}"; do
        if p=$(pid_of "$n"); then
            running=$((running + 1))
            printf '%-14s pid %-7s rss %6d kB\n' "$n" "$p" "$(awk '/^VmRSS/{print $2}' "/proc/$p/status")"
        else printf '%-14s down\n' "$n"; fi
    done
    if pid_of slurmctld >/dev/null; then
        slurm sinfo -h -p low -o '%D nodes %T: %N (%G each)' || true
        slurm squeue -h -r -t all -o %T | sort | uniq -c || true
    fi
    (( running == ${#all[@]} ))
}
kill_daemon() { # NAME
    local p
    p=$(pid_of "$1") || die "$1 is not running"
    kill -9 "$p"; rm -f "$D/run/$1.pid"
}
kill_node() { # N
    local p
    kill_daemon "slurmd-node$1"
    for p in $(steps "node$1"); do kill_tree "$p"; done
}

n=${3:-}
case $cmd in kill-node | kill-slurmd | start-node) [[ $n =~ ^[0-9]+$ ]] || die "$cmd: node number expected" ;; esac
case $cmd in
    start) start "${@:3}" ;;
    stop) stop ;;
    status) status ;;
    watch) while kill -0 "${n:?PID}" 2>/dev/null; do sleep 1; done; stop; rm -rf "$D" ;;
    env) cat "$D/env.sh" ;;
    kill-node) settings; kill_node "$n" ;;
    kill-slurmd) settings; kill_daemon "slurmd-node$n" ;;
    start-node) settings; start_node "$n"; wake "node$n" 1 ;;
    kill-ctld) settings; kill_daemon slurmctld ;;
    start-ctld) settings; start_ctld; wait_for 60 "the nodes" known ;;
    *) die "unknown command: $cmd" ;;
esac
