#!/bin/sh
# The machine that a test's mail server believes in. Run by
#   unshare --mount --uts --pid --fork --kill-child --mount-proc sh enter.sh HOST DIR DEBIAN COMMAND…
# as the first process of private mount, host name and process namespaces:
# nothing outside sees the mounts, the name or the /dev/log, and all that
# sendmail forks dies with this process. In there /mnt is DIR, the server's
# folder, and /opt is DEBIAN, the unpacked packages: sendmail refuses files
# below a folder that anybody may write to, and /tmp may well be above DIR.
set -eu
host=$1 dir=$2 debian=$3
shift 3

hostname "$host"
for file in hosts passwd group nsswitch.conf; do
    mount --bind "$dir/etc/$file" "/etc/$file"
done
mount --bind "$dir/mail" /var/mail

# A /dev of our own, since its log socket is the one that rsyslogd of this
# test reads, wherever the machine's own may lead.
mkdir -p "$dir/dev"
mount -t tmpfs -o mode=755 tmpfs "$dir/dev"
for node in null zero full random urandom tty; do
    : >"$dir/dev/$node"
    mount --bind "/dev/$node" "$dir/dev/$node"
done
ln -s /proc/self/fd "$dir/dev/fd"
ln -s "$(cat "$dir/log.path")" "$dir/dev/log"
mount --move "$dir/dev" /dev

mount --bind "$debian" /opt
mount --bind "$dir" /mnt

# /run/greypit may be the folder of a greypit outside; anything else that the
# machine keeps in /run is not there.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/greypit
[ ! -d /mnt/greypit ] || mount --bind /mnt/greypit /run/greypit

# Postfix's queue folder, where documentation expects it.
if [ -d /mnt/spool ]; then
    mount -t tmpfs -o mode=755 tmpfs /var/spool
    mkdir /var/spool/postfix
    mount --bind /mnt/spool /var/spool/postfix
fi

# Process numbers of a server that has been up for a while.
echo $((20000 + $(cksum <"$dir/log.path" | cut -c1-4))) >/proc/sys/kernel/ns_last_pid || true

# The shell would give a command in the background an empty input.
exec 3<&0
"$@" <&3 3<&- &
child=$!
trap 'kill -TERM $child 2>/dev/null' TERM INT
while kill -0 $child 2>/dev/null; do wait $child || true; done
