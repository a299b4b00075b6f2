# What dom0 runs when it has booted (tests/xen/dom0.py): brings Xen's own daemons up and runs the tests.
# Arguments: the checkout, its Python, and pytest's own.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
checkout=$1 python=$2
shift 2
mount -t tmpfs tmpfs /tmp
mount -t xenfs xenfs /proc/xen
ip link set lo up
mkdir -p /run/xen /run/lock /var/log/xen /var/lib/xen
echo 'autoballoon="off"' > /etc/xen/xl.conf
xenstored
/usr/lib/xen-4.17/bin/xen-init-dom0
xenconsoled
cd "$checkout" || exit
CI=true JITSU_GUEST_IMAGE="$checkout/.cache/xen/guest" JITSU_INSTALLED="$checkout/.cache/xen/installed" JITSU_TESTS_SLOWER=5 \
  PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q -m xen -p no:cacheprovider -p no:xdist --color=no --tb=short --durations=10 -o faulthandler_timeout=0 "$@"
echo "dom0: status $?"
sleep infinity
