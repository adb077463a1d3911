# The first process of the virtual machine. It runs twice: in the memory that the machine starts with, and again in the files of the
# host, which lie below an overlay, so that nothing of the host is changed.
# "dir" and "busybox" come from the command line of the kernel: a folder of the host's, and a program there.

die() {
    echo "guest: $*"
    /bin/busybox poweroff -f
}

if [ "${1:-}" != "in the files of the host" ]; then
    PATH=/bin
    busybox mount -t proc proc /proc && busybox mount -t sysfs sys /sys && busybox mount -t devtmpfs dev /dev || die "no /dev"
    # Kernels differ in what is a module: this file names those of ours that are one.
    for module in $(busybox cat /modules); do busybox modprobe "$module" || die "no module $module"; done
    busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose host /host || die "no files of the host"
    busybox mount -t tmpfs memory /own && busybox mkdir /own/upper /own/work
    busybox mount -t overlay -o lowerdir=/host,upperdir=/own/upper,workdir=/own/work overlay /whole || die "no overlay"
    for place in proc sys dev; do busybox mount --move /$place /whole/$place; done
    exec busybox switch_root /whole "$busybox" sh "$dir/init.sh" "in the files of the host"
fi

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run/tmp
bb() { "$busybox" "$@"; }
bb mount -t tmpfs run /run
bb mkdir -p /run/lock /run/tmp /dev/pts /lib/modules
bb mount -t devpts pts /dev/pts
bb mount -t bpf bpf /sys/fs/bpf
bb mount -t cgroup2 cgroup /sys/fs/cgroup
bb mount -o bind "$dir/modules" /lib/modules
# The kernel calls this for modules that a system call asks for. The host may have none, or one that wants other indexes.
bb ln -sf "$busybox" /sbin/modprobe
bb ip link set lo up
ulimit -n 20000
bb stty -F /dev/hvc0 raw -echo
bb stty -F /dev/hvc1 raw -echo
# What the kernel logs from here on goes to the reader of the output, each line with a prefix that he knows.
bb dmesg -c >/dev/null
echo "snisplice-tests begin" >/dev/kmsg
bb sh "$dir/job.sh" >/dev/hvc0 2>/dev/hvc1 </dev/null
bb dmesg -r | bb sed 's/^/guest kernel: /' >/dev/hvc1
bb sync
bb poweroff -f
