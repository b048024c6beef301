#!/usr/bin/env bash
# A machine with another kernel, emulated by QEMU (TCG: no KVM is needed): Debian without systemd and without a network.
set -euo pipefail

usage() {
  cat >&2 <<'TEXT'
usage: machine.sh build DIRECTORY KERNEL-SUITE ROOT-SUITE [PACKAGE...]
       machine.sh run DIRECTORY SHARED SECONDS COMMAND

build  makes DIRECTORY/{vmlinuz,initrd,root.ext4,version}: the kernel of one Debian suite, the programs of another
run    runs COMMAND, a line of bash, as root in /share, which is SHARED; prints what it prints and exits as it does;
       124 after SECONDS, 125 where the machine died. What it writes outside /share is forgotten.
TEXT
  exit 2
}

# Modules of hardware and file systems that no test needs.
USELESS=(sound drivers/{gpu,media,infiniband,scsi,usb,iio,staging,ata,hwmon,platform,input,net/wireless,net/ethernet}
  fs/{xfs,btrfs,ocfs2,gfs2,ceph,f2fs,nfs,nfsd,smb,cifs})

build() {
  local directory kernel_suite=$2 root_suite=$3 mirror root version
  directory=$(mkdir -p "$1" && cd "$1" && pwd)
  shift 3
  root=$directory/root
  # Any of the Debian archives that apt is set up with.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | head -n 1)
  [ "$mirror" ] || { echo "machine.sh: no Debian archive in the sources of apt" >&2; exit 1; }
  rm -rf "$root" "$directory"/apt "$directory"/start
  fetch_kernel "$directory/apt" "$mirror" "$kernel_suite"
  debootstrap --variant=minbase --include="$(IFS=,; echo "python3,libbpf1,iproute2,iperf3,kmod,nftables,procps${*:+,$*}")" \
    "$root_suite" "$root" "$mirror"
  dpkg-deb --fsys-tarfile "$directory"/apt/*.deb | tar -C "$root" --keep-directory-symlink -x
  version=$(basename "$root"/boot/vmlinuz-*)
  version=${version#vmlinuz-}
  mv "$root/boot/vmlinuz-$version" "$directory/vmlinuz"
  (cd "$root/lib/modules/$version/kernel" && rm -rf "${USELESS[@]}")
  rm -rf "$root"/boot/* "$root"/var/cache/apt/archives/*.deb
  depmod -b "$root" "$version"
  echo machine >"$root/etc/hostname"
  printf '127.0.0.1 localhost machine\n::1 localhost\n' >"$root/etc/hosts"
  mkdir -p "$root/share" "$root/machine"
  write_init >"$root/machine/init"
  chmod +x "$root/machine/init"
  make_initrd "$directory" "$root" "$version"
  rm -f "$directory/root.ext4"
  truncate -s $(($(du -sm "$root" | cut -f 1) * 5 / 4 + 256))M "$directory/root.ext4"
  mkfs.ext4 -q -F -O ^has_journal -d "$root" "$directory/root.ext4"
  rm -rf "$root" "$directory"/apt "$directory"/start
  echo "$version" >"$directory/version"
}

# fetch_kernel DIRECTORY MIRROR SUITE: downloads the newest kernel of a suite, by an apt configuration of its own
fetch_kernel() {
  local apt=$1 mirror=$2 suite=$3 image
  mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
  echo "deb $mirror $suite main" >"$apt/sources.list"
  printf '%s "%s";\n' Dir::State "$apt/state" Dir::Cache "$apt/cache" Dir::Etc::sourcelist "$apt/sources.list" \
    Dir::Etc::sourceparts - APT::Sandbox::User root Acquire::Languages none >"$apt/apt.conf"
  (
    export APT_CONFIG=$apt/apt.conf
    cd "$apt"
    apt-get -qq update
    image=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
    apt-get -qq download "$image"
  )
}

write_init() {
  cat <<'INIT'
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
for directory in /dev/shm /run /tmp; do mount -t tmpfs tmp $directory; done
mount -t tracefs trace /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname machine
ip link set lo up
modprobe -a 9pnet_virtio 9p veth bridge nf_conntrack nf_conntrack_netlink nft_ct nft_chain_nat nft_masq nft_numgen nft_reject_inet
mkdir /run/machine
options=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o $options run /run/machine
mount -t 9p -o $options,cache=loose share /share
stty -F /dev/ttyS1 raw -echo
cd /share
setsid -w bash /run/machine/command </dev/null >/dev/ttyS1 2>&1
echo $? >/run/machine/status
stty -F /dev/ttyS1 raw # waits until the output is out
echo b >/proc/sysrq-trigger
sleep 60
INIT
}

# make_initrd DIRECTORY ROOT VERSION: busybox, and the modules that lead to an ext4 on virtio_blk
make_initrd() {
  local directory=$1 root=$2 version=$3 start=$1/start module
  mkdir -p "$start"/{bin,dev,proc,root,modules}
  cp "$(command -v busybox)" "$start/bin/busybox"
  for module in virtio_pci virtio_blk crc32c_generic ext4; do
    modprobe -d "$root" -S "$version" --show-depends "$module" 2>/dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p'
  done | awk '!seen[$0]++' | while read -r module; do
    cp "$module" "$start/modules/"
    module=$start/modules/${module##*/}
    case $module in
      *.xz) unxz "$module" && module=${module%.xz} ;;
      *.zst) unzstd -q --rm "$module" && module=${module%.zst} ;;
    esac
    echo "/modules/${module##*/}" >>"$start/modules/list"
  done
  cat >"$start/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/list); do /bin/busybox insmod $module; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /machine/init
INIT
  chmod +x "$start/init"
  (cd "$start" && find . | cpio -o -H newc --quiet | gzip -1) >"$directory/initrd"
}

run() {
  local directory=$1 shared=$2 seconds=$3 command=$4 status=0
  work=$(mktemp -d)
  machine=
  trap '[ -z "$machine" ] || kill "$machine" 2>/dev/null; rm -rf "$work"' EXIT
  printf '%s\n' "$command" >"$work/command"
  timeout --foreground --kill-after 5 "$seconds" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 \
    -nodefaults -display none -no-reboot -kernel "$directory/vmlinuz" -initrd "$directory/initrd" \
    -append 'console=ttyS0 quiet panic=-1 mitigations=off' \
    -drive "file=$directory/root.ext4,format=raw,if=virtio,snapshot=on" -serial "file:$work/console" -serial stdio \
    -virtfs "local,path=$work,mount_tag=run,security_model=none" \
    -virtfs "local,path=$shared,mount_tag=share,security_model=none" </dev/null &
  machine=$!
  wait "$machine" || status=$?
  machine=
  [ "$status" != 124 ] && [ "$status" != 137 ] || { echo "machine.sh: still running after $seconds s" >&2; exit 124; }
  [ -s "$work/status" ] || { tail -n 40 "$work/console" >&2; echo "machine.sh: the machine ended without a status" >&2; exit 125; }
  exit "$(cat "$work/status")"
}

verb=${1:-}
[ $# -eq 0 ] || shift
case $verb:$# in
  build:[0-2] | run:[!4]) usage ;;
  build:* | run:4) "$verb" "$@" ;;
  *) usage ;;
esac
